//! Sums of products of any axes and types: contractions and convolutions.

use crate::reduce::{Windows, accumulated, joined, ty_of};
use crate::require;
use crate::sample::{Rng, attrs, extents};
use crate::typed::{NUMBERS, computed, constant, indices, nest, plain, ravel, read, write};
use lathe_ir::graph::{
    Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Type, ValueId, int_attr, ints_attr,
};
use lathe_ir::tensor::Stmt;
use lathe_ir::{DType, Elements, Int, IrError, Tensor};

/// The axes of a product of two tensors: those that both have and are kept, and those that are summed over.
struct Pairs {
    batch: [Vec<usize>; 2],
    sum: [Vec<usize>; 2],
    free: [Vec<usize>; 2],
}

impl Pairs {
    fn of(t: &[Type], a: &Attrs) -> Option<Pairs> {
        let side = |name: &str, i: usize| -> Option<Vec<usize>> {
            let fits = |v: &i64| usize::try_from(*v).ok().filter(|d| *d < t[i].shape.len());
            ints_attr(a, &format!("{name}_{}", ["x", "y"][i])).iter().map(fits).collect()
        };
        let batch = [side("batch", 0)?, side("batch", 1)?];
        let sum = [side("sum", 0)?, side("sum", 1)?];
        let mut free = [vec![], vec![]];
        for i in 0..2 {
            let used = [batch[i].as_slice(), &sum[i]].concat();
            let twice = (0..used.len()).any(|n| used[..n].contains(&used[n]));
            (!twice).then_some(())?;
            free[i] = (0..t[i].shape.len()).filter(|d| !used.contains(d)).collect();
        }
        let same = |[x, y]: &[Vec<usize>; 2]| {
            x.len() == y.len() && x.iter().zip(y).all(|(i, j)| t[0].shape[*i] == t[1].shape[*j])
        };
        (same(&batch) && same(&sum)).then_some(Pairs { batch, sum, free })
    }

    /// The index of argument `i` for an index of the result and one of what is summed over.
    fn index<T: Clone>(&self, i: usize, of: &[T], over: &[T], nothing: T) -> Vec<T> {
        let mut out = vec![nothing; self.batch[i].len() + self.sum[i].len() + self.free[i].len()];
        self.batch[i].iter().zip(of).for_each(|(d, v)| out[*d] = v.clone());
        let skip = self.batch[0].len() + if i == 1 { self.free[0].len() } else { 0 };
        self.free[i].iter().zip(&of[skip..]).for_each(|(d, v)| out[*d] = v.clone());
        self.sum[i].iter().zip(over).for_each(|(d, v)| out[*d] = v.clone());
        out
    }
}

fn infer_dot(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(
        t.len() == 2 && t.iter().all(plain) && (t[0].dtype == t[1].dtype || of_bytes(t)),
        "expects two dense tensors of one type, or one of u8 and one of i8",
    )?;
    let p = Pairs::of(t, a).ok_or("the axes do not fit each other")?;
    let part = |axes: &[usize], i: usize| axes.iter().map(|d| t[i].shape[*d].clone()).collect::<Vec<_>>();
    let shape = [part(&p.batch[0], 0), part(&p.free[0], 0), part(&p.free[1], 1)].concat();
    Ok(vec![Type::dense(if of_bytes(t) { DType::I32 } else { t[0].dtype }, &shape)])
}

/// Whether products are those of unsigned with signed bytes, which are summed in i32.
fn of_bytes(t: &[Type]) -> bool {
    t[0].dtype == DType::U8 && t[1].dtype == DType::I8
}

/// The sum of products of elements at pairs of places.
fn products(x: &Elements, y: &Elements, places: impl Iterator<Item = (usize, usize)>) -> Elements {
    match (x, y) {
        (Elements::Ints(x), Elements::Ints(y)) => {
            Elements::Ints(vec![places.fold(0i128, |s, (i, j)| s.wrapping_add(x[i].wrapping_mul(y[j])))])
        }
        (Elements::Floats(x), Elements::Floats(y)) => {
            Elements::Floats(vec![places.map(|(i, j)| x[i] * y[j]).sum()])
        }
        _ => Elements::Floats(vec![0.0]),
    }
}

fn dot(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let types: Vec<Type> = a.iter().map(ty_of).collect();
    let p = Pairs::of(&types, at).expect("inferred before");
    let over: Vec<usize> = p.sum[0].iter().map(|d| a[0].shape[*d]).collect();
    let (x, y) = (a[0].elements(), a[1].elements());
    let one = |index: Vec<usize>| {
        let place = |i: usize, k: &[usize]| ravel(&p.index(i, &index, k, 0), &a[i].shape);
        products(&x, &y, indices(&over).map(|k| (place(0, &k), place(1, &k))))
    };
    vec![joined(indices(&extents(&t[0])).map(one).collect(), &t[0])]
}

fn lower_dot(l: &Lowering) -> Vec<Stmt> {
    let types: Vec<Type> = l.ins.iter().map(|o| o.ty.clone()).collect();
    let p = Pairs::of(&types, &l.attrs).expect("inferred before");
    let over: Vec<Int> = p.sum[0].iter().map(|d| types[0].shape[*d].clone()).collect();
    nest(l, &l.outs[0].ty.shape, |index| {
        let bytes = of_bytes(&types);
        let sums = if bytes { DType::I32 } else { computed(types[0].dtype) };
        let (mut body, sum) = accumulated(l, "sum", sums, &over, |k| {
            let at = |i: usize| {
                let v = read(&l.ins[i], &p.index(i, index, k, 0.into()));
                if bytes { v.cast(DType::I32) } else { v }
            };
            &at(0) * &at(1)
        });
        body.push(write(&l.outs[0], &l.name("y"), index, sum));
        body
    })
}

/// A product of the result's gradient with the other argument, its axes put in order.
fn dot_gradient(d: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError> {
    let types = [d.ty(d.arg(0)).clone(), d.ty(d.arg(1)).clone()];
    let Some(p) = Pairs::of(&types, d.attrs()) else { return d.refuse("its axes do not fit") };
    let ints = |v: Vec<usize>| Attr::Ints(v.into_iter().map(|d| d as i64).collect());
    let (batch, mut out) = (p.batch[0].len(), vec![]);
    for i in 0..2 {
        let (o, dy) = (1 - i, d.dy());
        // Axes of dy that are free in the other argument.
        let first = batch + if o == 1 { p.free[0].len() } else { 0 };
        let attrs = [
            ("batch_x", ints((0..batch).collect())),
            ("batch_y", ints(p.batch[o].clone())),
            ("sum_x", ints((first..first + p.free[o].len()).collect())),
            ("sum_y", ints(p.free[o].clone())),
        ];
        let g = d.op_with("dot", &[dy, d.arg(o)], &attrs)?;
        // Now it has the batch, what is free here, and what was summed over in the other's order.
        let mut summed: Vec<usize> = (0..p.sum[o].len()).collect();
        summed.sort_by_key(|n| p.sum[o][*n]);
        let order: Vec<usize> =
            [p.batch[i].clone(), p.free[i].clone(), summed.iter().map(|n| p.sum[i][*n]).collect()].concat();
        let mut axes = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, d)| axes[*d] = at);
        out.push(Some(d.op_with("permute", &[g], &[("axes", ints(axes))])?));
    }
    Ok(out)
}

/// The windows of a convolution and the number of its groups.
fn convolved(t: &[Type], a: &Attrs) -> Option<(Windows, i64, Vec<Int>)> {
    let (x, w) = (&t[0].shape, &t[1].shape);
    (x.len() == w.len() && x.len() > 2).then_some(())?;
    let sizes: Option<Vec<i64>> = w[2..].iter().map(constant).collect();
    let windows = Windows::of(&sizes?, a)?;
    let groups = int_attr(a, "groups").unwrap_or(1);
    let (c, m, part) = (constant(&x[1])?, constant(&w[0])?, constant(&w[1])?);
    (groups > 0 && m % groups == 0 && part.checked_mul(groups)? == c).then_some(())?;
    let counts = windows.counts(&x[2..])?;
    Some((windows, groups, counts))
}

fn infer_conv(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let filters = |t: &Type| t.encoding.as_ref().is_some_and(|e| FILTERS.contains(&&**e));
    require(
        t.len() == 2 && plain(&t[0]) && (plain(&t[1]) || filters(&t[1])) && t[0].dtype == t[1].dtype,
        "expects two tensors of one type, dense but for packed filters",
    )?;
    let (_, _, counts) = convolved(t, a).ok_or("the weights do not fit the channels, groups and extents")?;
    let shape = [&[t[0].shape[0].clone(), t[1].shape[0].clone()][..], &counts].concat();
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

/// How constant filters may lie.
const FILTERS: [&str; 2] = ["f32.filters16", "f32.filters8"];

fn conv(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let types: Vec<Type> = a.iter().map(ty_of).collect();
    let (windows, groups, _) = convolved(&types, at).expect("inferred before");
    let (x, w) = (a[0].elements(), a[1].elements());
    let (outs, ins) = (a[1].shape[0] / groups as usize, a[1].shape[1]);
    let one = |i: Vec<usize>| {
        let places = indices(&a[1].shape[1..]).map(|k| {
            let at = windows.place(&i[2..], &k[1..]);
            let from = [&[i[0], i[1] / outs * ins + k[0]][..], &at].concat();
            (ravel(&from, &a[0].shape), ravel(&[&[i[1]][..], &k].concat(), &a[1].shape))
        });
        products(&x, &w, places)
    };
    vec![joined(indices(&extents(&t[0])).map(one).collect(), &t[0])]
}

fn lower_conv(l: &Lowering) -> Vec<Stmt> {
    let types: Vec<Type> = l.ins.iter().map(|o| o.ty.clone()).collect();
    let (windows, groups, _) = convolved(&types, &l.attrs).expect("inferred before");
    let w = &types[1].shape;
    let (outs, ins) = (constant(&w[0]).unwrap_or(1) / groups, constant(&w[1]).unwrap_or(1));
    nest(l, &l.outs[0].ty.shape, |i| {
        let (mut body, sum) = accumulated(l, "sum", computed(types[0].dtype), &w[1..], |k| {
            let channel = match groups {
                1 => k[0].clone(),
                _ => i[1].clone() / outs * ins + k[0].clone(),
            };
            let from = [&[i[0].clone(), channel][..], &windows.at(&i[2..], &k[1..])].concat();
            let weight = [&[i[1].clone()][..], k].concat();
            &read(&l.ins[0], &from) * &read(&l.ins[1], &weight)
        });
        body.push(write(&l.outs[0], &l.name("y"), i, sum));
        body
    })
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "dot",
        doc: "products of x and y along the axes `batch_x` and `batch_y`, summed over `sum_x` and `sum_y`; the batch first, then \
              the other axes of x and of y; u8 with i8 in i32",
        form: Form::NEST,
        gradient: Some(dot_gradient),
        donates: &[],
        infer: infer_dot,
        reference: dot,
        edge: Edge::none,
        lower: lower_dot,
        sample: |seed| {
            let (mut r, t) = (Rng(seed), Rng::turn(seed / 4, &NUMBERS));
            let list = |v: &[i64]| Attr::Ints(v.to_vec());
            match seed % 4 {
                3 => {
                    // More rows and columns than a tile has, and no whole number of tiles.
                    let at = attrs(&[("sum_x", list(&[2])), ("sum_y", list(&[seed as i64 / 4 % 2]))]);
                    // Halves and bytes in whole words of the sum, too.
                    let kinds = [DType::BF16, DType::U8, DType::F32, DType::BF16, DType::U8];
                    let t = kinds[seed as usize / 4 % kinds.len()];
                    let (k, of) =
                        (if t == DType::F32 { 7 } else { 8 }, if t == DType::U8 { DType::I8 } else { t });
                    let y = if seed / 4 % 2 == 0 { [k, 37] } else { [37, k] };
                    (vec![r.typed(t, &[2, 29, k]), r.typed(of, &y)], at)
                }
                0 => {
                    let at = attrs(&[("sum_x", list(&[1])), ("sum_y", list(&[0]))]);
                    (vec![r.typed(t, &[3, 16]), r.typed(t, &[16, 5])], at)
                }
                1 => {
                    let batch = [("batch_x", list(&[0])), ("batch_y", list(&[1]))];
                    let at = attrs(&[&batch[..], &[("sum_x", list(&[2])), ("sum_y", list(&[0]))]].concat());
                    (vec![r.typed(t, &[2, 3, 8]), r.typed(t, &[8, 2, 5])], at)
                }
                _ => {
                    let at = attrs(&[("sum_x", list(&[0, 2])), ("sum_y", list(&[2, 1]))]);
                    (vec![r.typed(t, &[4, 3, 5]), r.typed(t, &[2, 5, 4])], at)
                }
            }
        },
    },
    OpRow {
        name: "conv",
        doc: "y[n, m, o..] = sum over c, k of x[n, c, o * `strides` + k * `dilations`] * w[m, c, k..], channels in `groups`",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_conv,
        reference: conv,
        edge: Edge::none,
        lower: lower_conv,
        sample: |seed| {
            let (mut r, t) = (Rng(seed), Rng::turn(seed / 4, &NUMBERS));
            let list = |v: &[i64]| Attr::Ints(v.to_vec());
            match seed % 4 {
                3 => {
                    // Packed filters, more input channels than are summed at a time; 4 or 7 positions.
                    let groups = 1 + (seed / 4 % 2) as usize;
                    let width = if seed / 8 % 2 == 0 { 9 } else { 15 };
                    let at = attrs(&[("strides", list(&[1, 2])), ("groups", Attr::Int(groups as i64))]);
                    let x = r.typed(DType::F32, &[1, 18, 4, width]);
                    let (layout, outs) = if seed / 16 % 2 == 0 { (FILTERS[0], 32) } else { (FILTERS[1], 24) };
                    (vec![x, r.encoded(layout, &[outs * groups, 18 / groups, 2, 3])], at)
                }
                0 => (vec![r.typed(t, &[2, 3, 5, 6]), r.typed(t, &[4, 3, 2, 3])], Attrs::new()),
                1 => {
                    let at = attrs(&[
                        ("strides", list(&[2])),
                        ("dilations", list(&[3])),
                        ("groups", Attr::Int(2)),
                    ]);
                    (vec![r.typed(t, &[1, 4, 12]), r.typed(t, &[6, 2, 3])], at)
                }
                _ => {
                    let at = attrs(&[("strides", list(&[1, 2, 1])), ("groups", Attr::Int(3))]);
                    (vec![r.typed(t, &[1, 3, 4, 5, 3]), r.typed(t, &[3, 1, 2, 2, 2])], at)
                }
            }
        },
    },
];
