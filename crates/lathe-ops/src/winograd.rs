//! Convolutions of 3x3 by Winograd's algorithm (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016): filters
//! and tiles of the input are transformed, multiplied place by place as matrices over the channels, and the products transformed
//! back. `F(m x m, 3 x 3)` takes `(m + 2)^2` products for `m^2` results, where a sum of products takes `9 m^2`.

use crate::norm::array;
use crate::require;
use crate::sample::{Rng, attrs, extents, result};
use crate::typed::{constant, indices, nest, nest_named, ravel};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, int_attr, ints_attr};
use lathe_ir::tensor::{Buffer, Expr, REGISTER, Stmt};
use lathe_ir::{DType, Int, Tensor};
use std::sync::Arc;

/// A matrix, row by row.
type Matrix = &'static [&'static [f64]];

/// The transforms of tiles of `tile` x `tile` results.
struct Transforms {
    tile: i64,
    /// Of tiles of the input, `B^T`.
    input: Matrix,
    /// Of filters, `G`.
    filters: Matrix,
    /// Of products, `A^T`.
    output: Matrix,
}

/// For tiles of 2 and of 4.
const TRANSFORMS: [Transforms; 2] = [
    Transforms {
        tile: 2,
        input: &[&[1., 0., -1., 0.], &[0., 1., 1., 0.], &[0., -1., 1., 0.], &[0., 1., 0., -1.]],
        filters: &[&[1., 0., 0.], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0., 0., 1.]],
        output: &[&[1., 1., 1., 0.], &[0., 1., -1., -1.]],
    },
    Transforms {
        tile: 4,
        input: &[
            &[4., 0., -5., 0., 1., 0.],
            &[0., -4., -4., 1., 1., 0.],
            &[0., 4., -4., -1., 1., 0.],
            &[0., -2., -1., 2., 1., 0.],
            &[0., 2., -1., -2., 1., 0.],
            &[0., 4., 0., -5., 0., 1.],
        ],
        filters: &[
            &[1. / 4., 0., 0.],
            &[-1. / 6., -1. / 6., -1. / 6.],
            &[-1. / 6., 1. / 6., -1. / 6.],
            &[1. / 24., 1. / 12., 1. / 6.],
            &[1. / 24., -1. / 12., 1. / 6.],
            &[0., 0., 1.],
        ],
        output: &[
            &[1., 1., 1., 1., 1., 0.],
            &[0., 1., -1., 2., -2., 0.],
            &[0., 1., 1., 4., 4., 0.],
            &[0., 1., -1., 8., -8., 1.],
        ],
    },
];

fn transforms(a: &Attrs) -> Result<&'static Transforms, String> {
    let tile = int_attr(a, "tile");
    TRANSFORMS.iter().find(|t| Some(t.tile) == tile).ok_or("the tile is neither 2 nor 4".to_string())
}

/// The extents of a dense tensor of f32 with four axes.
fn four(t: &[Type]) -> Result<[i64; 4], String> {
    require(
        t.len() == 1 && t[0].dtype == DType::F32 && t[0].encoding.is_none(),
        "expects one tensor of f32",
    )?;
    let n: Option<Vec<i64>> = t[0].shape.iter().map(constant).collect();
    n.and_then(|n| n.try_into().ok()).ok_or("expects four axes of constant extents".to_string())
}

fn dense(shape: &[i64]) -> Vec<Type> {
    vec![Type::dense(DType::F32, &shape.iter().map(|n| Int::from(*n)).collect::<Vec<_>>())]
}

/// `left * x * left^T` of a square matrix.
fn both(left: Matrix, x: &[f64]) -> Vec<f64> {
    let n = left[0].len();
    let half: Vec<f64> =
        left.iter().flat_map(|row| (0..n).map(|j| (0..n).map(|k| row[k] * x[k * n + j]).sum())).collect();
    let line = |i: usize| left.iter().map(move |row| (i, row));
    (0..left.len()).flat_map(line).map(|(i, row)| (0..n).map(|k| half[i * n + k] * row[k]).sum()).collect()
}

/// The sum of elements times their factors, which are constants.
fn combined(row: &[f64], at: &dyn Fn(usize) -> Expr) -> Expr {
    let mut sum: Option<Expr> = None;
    for (k, f) in row.iter().enumerate().filter(|(_, f)| **f != 0.0) {
        let x = if f.abs() == 1.0 { at(k) } else { Expr::f32(f.abs() as f32) * at(k) };
        sum = Some(match (sum, *f > 0.0) {
            (None, true) => x,
            (None, false) => Expr::f32(0.0) - x,
            (Some(s), true) => s + x,
            (Some(s), false) => s - x,
        });
    }
    sum.expect("no row of a transform is 0")
}

/// The statements of `left * x * left^T`, where `x` reads an element and `store` writes one: what is read is read once.
fn transform(
    l: &Lowering,
    left: Matrix,
    x: &dyn Fn(usize, usize) -> Expr,
    store: &dyn Fn(&str, usize, usize, Expr) -> Stmt,
) -> Vec<Stmt> {
    let (n, m) = (left[0].len(), left.len());
    let (taken, half) = (l.name("taken"), l.name("half"));
    let element = |of: &str, at: usize| Expr::load(of, &[(at as i64).into()]);
    let put = |of: &str, at: usize, v: Expr| Stmt::store(&format!("{of}{at}"), of, &[(at as i64).into()], v);
    let own = |name: &str, n: usize| {
        let b = Buffer::dense(name, DType::F32, &[Int::from(n as i64)], REGISTER);
        Stmt::Alloc(Arc::new(b))
    };
    let mut body = vec![own(&taken, n * n), own(&half, m * n)];
    for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
        body.push(put(&taken, i * n + j, x(i, j)));
    }
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        body.push(put(&half, i * n + j, combined(left[i], &|k| element(&taken, k * n + j))));
    }
    for (i, j) in (0..m).flat_map(|i| (0..m).map(move |j| (i, j))) {
        let sum = combined(left[j], &|k| element(&half, i * n + k));
        body.push(store(&l.name(&format!("y{}", i * m + j)), i, j, sum));
    }
    body
}

fn infer_input(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let (f, [n, c, h, w]) = (transforms(a)?, four(t)?);
    let whole = [h, w].iter().all(|n| *n > 2 && (n - 2) % f.tile == 0);
    require(whole, "the planes are no whole number of tiles and their edge")?;
    let places = (f.input.len() * f.input.len()) as i64;
    Ok(dense(&[places, n * ((h - 2) / f.tile) * ((w - 2) / f.tile), c]))
}

fn input(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let f = transforms(at).expect("inferred before");
    let (m, n, x, s) = (f.tile as usize, f.input.len(), a[0].values(), &a[0].shape);
    let to = extents(&t[0]);
    let (rows, columns) = ((s[2] - 2) / m, (s[3] - 2) / m);
    let mut y = vec![0.0; to.iter().product()];
    for i in indices(&[s[0], rows, columns, s[1]]) {
        let from = |k: usize| ravel(&[i[0], i[3], i[1] * m + k / n, i[2] * m + k % n], s);
        let tile: Vec<f64> = (0..n * n).map(|k| x[from(k)]).collect();
        for (k, v) in both(f.input, &tile).into_iter().enumerate() {
            y[ravel(&[k, (i[0] * rows + i[1]) * columns + i[2], i[3]], &to)] = v;
        }
    }
    vec![result(&t[0], &y)]
}

fn lower_input(l: &Lowering) -> Vec<Stmt> {
    let f = transforms(&l.attrs).expect("inferred before");
    let (x, y, n) = (&l.ins[0], &l.outs[0], f.input.len());
    let s = four(std::slice::from_ref(&x.ty)).expect("inferred before");
    let tiles = [(s[2] - 2) / f.tile, (s[3] - 2) / f.tile];
    nest(l, &[s[0].into(), s[1].into(), tiles[0].into(), tiles[1].into()], |i| {
        let tile = (i[0].clone() * tiles[0] + i[2].clone()) * tiles[1] + i[3].clone();
        let along = |i: &Expr, k: usize| i.clone() * f.tile + k as i64;
        let read =
            |a: usize, b: usize| x.read(&[i[0].clone(), i[1].clone(), along(&i[2], a), along(&i[3], b)]);
        transform(l, f.input, &read, &|name, a, b, v| {
            y.write(name, &[((a * n + b) as i64).into(), tile.clone(), i[1].clone()], v)
        })
    })
}

fn infer_filters(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let (f, [o, c, h, w]) = (transforms(a)?, four(t)?);
    let lanes = int_attr(a, "lanes").filter(|l| *l > 0 && o % l == 0);
    let lanes = lanes.ok_or("the filters are no whole number of `lanes`")?;
    require([h, w] == [3, 3], "expects filters of 3x3")?;
    Ok(dense(&[(f.filters.len() * f.filters.len()) as i64, o / lanes, c, lanes]))
}

fn filters(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let f = transforms(at).expect("inferred before");
    let (w, to) = (a[0].values(), extents(&t[0]));
    let mut y = vec![0.0; to.iter().product()];
    for (i, filter) in w.chunks(9).enumerate() {
        let (o, c) = (i / to[2], i % to[2]);
        for (k, v) in both(f.filters, filter).into_iter().enumerate() {
            y[ravel(&[k, o / to[3], c, o % to[3]], &to)] = v;
        }
    }
    vec![result(&t[0], &y)]
}

fn lower_filters(l: &Lowering) -> Vec<Stmt> {
    let f = transforms(&l.attrs).expect("inferred before");
    let (w, y, n) = (&l.ins[0], &l.outs[0], f.filters.len());
    let lanes = constant(&y.ty.shape[3]).expect("inferred before");
    nest(l, &y.ty.shape[1..], |i| {
        let from = i[0].clone() * lanes + i[2].clone();
        let read =
            |a: usize, b: usize| w.read(&[from.clone(), i[1].clone(), (a as i64).into(), (b as i64).into()]);
        transform(l, f.filters, &read, &|name, a, b, v| {
            y.write(name, &[&[((a * n + b) as i64).into()], i].concat(), v)
        })
    })
}

/// Images, channels, and tiles of rows and columns of a result.
fn tiles(t: &[Type], a: &Attrs) -> Result<([i64; 2], [i64; 2], [i64; 2]), String> {
    let (f, [places, all, blocks, lanes]) = (transforms(a)?, four(t)?);
    let [h, w] = *ints_attr(a, "extents") else { return Err("`extents` are those of a plane".into()) };
    require(h > 0 && w > 0, "`extents` are those of a plane")?;
    let tiles = [(h + f.tile - 1) / f.tile, (w + f.tile - 1) / f.tile];
    let whole = all % (tiles[0] * tiles[1]) == 0 && places == (f.input.len() * f.input.len()) as i64;
    require(whole, "the products are not those of whole images of these `extents`")?;
    let channels = int_attr(a, "channels").unwrap_or(blocks * lanes);
    require((1..=blocks * lanes).contains(&channels), "there are not so many `channels`")?;
    Ok(([all / (tiles[0] * tiles[1]), channels], tiles, [h, w]))
}

fn infer_output(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let (outer, _, plane) = tiles(t, a)?;
    Ok(dense(&[outer, plane].concat()))
}

fn output(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let f = transforms(at).expect("inferred before");
    let (m, n, x, s, to) = (f.tile as usize, f.input.len(), a[0].values(), &a[0].shape, extents(&t[0]));
    let (rows, columns) = (to[2].div_ceil(m), to[3].div_ceil(m));
    let mut y = vec![0.0; to.iter().product()];
    for i in indices(&[to[0], to[1], rows, columns]) {
        let tile = (i[0] * rows + i[2]) * columns + i[3];
        let products: Vec<f64> =
            (0..n * n).map(|k| x[ravel(&[k, tile, i[1] / s[3], i[1] % s[3]], s)]).collect();
        for (k, v) in both(f.output, &products).into_iter().enumerate() {
            let at = [i[0], i[1], i[2] * m + k / m, i[3] * m + k % m];
            if at[2] < to[2] && at[3] < to[3] {
                y[ravel(&at, &to)] = v;
            }
        }
    }
    vec![result(&t[0], &y)]
}

/// Whole tiles go to planes with room for them, of which the result is a part.
fn lower_output(l: &Lowering) -> Vec<Stmt> {
    let f = transforms(&l.attrs).expect("inferred before");
    let (x, y, n) = (&l.ins[0], &l.outs[0], f.input.len());
    let (outer, tiles, _) = tiles(std::slice::from_ref(&x.ty), &l.attrs).expect("inferred before");
    let lanes = constant(&x.ty.shape[3]).expect("inferred before");
    let whole = l.name("whole");
    let ints = |n: &[i64]| n.iter().map(|n| Int::from(*n)).collect::<Vec<_>>();
    let room = ints(&[outer, [tiles[0] * f.tile, tiles[1] * f.tile]].concat());
    let mut body = vec![array(&whole, &room)];
    body.extend(nest_named(l, "t", &ints(&[outer, tiles].concat()), |i| {
        let tile = (i[0].clone() * tiles[0] + i[2].clone()) * tiles[1] + i[3].clone();
        let channel = [i[1].clone() / lanes, i[1].clone() % lanes];
        let read = |a: usize, b: usize| {
            let at = [Expr::from((a * n + b) as i64), tile.clone()];
            x.read(&[at, channel.clone()].concat())
        };
        let along = |i: &Expr, k: usize| i.clone() * f.tile + k as i64;
        transform(l, f.output, &read, &|name, a, b, v| {
            Stmt::store(name, &whole, &[i[0].clone(), i[1].clone(), along(&i[2], a), along(&i[3], b)], v)
        })
    }));
    body.extend(nest(l, &y.ty.shape, |i| vec![y.write(&l.name("y"), i, Expr::load(&whole, i))]));
    body
}

/// Rows of a sample's tiles: 4 where channels are whole vectors, and then each other time, as their kernels are long.
fn tile_of(seed: u64) -> usize {
    if seed % 6 == 4 { 4 } else { 2 }
}

fn tile_attr(seed: u64) -> (&'static str, Attr) {
    ("tile", Attr::Int(tile_of(seed) as i64))
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "winograd_input",
        doc: "of each tile of `tile` x `tile` results of a convolution of 3x3 over the planes x[n, c], the elements under it, transformed: \
              y[place, tile, c]",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_input,
        reference: input,
        edge: Edge::none,
        lower: lower_input,
        sample: |seed| {
            let m = tile_of(seed);
            let c = [3, 16, 8][seed as usize % 3];
            (vec![Rng(seed).dense(&[2, c, m + 2, 2 * m + 2])], attrs(&[tile_attr(seed)]))
        },
    },
    OpRow {
        name: "winograd_filters",
        doc: "filters w[m, c] of 3x3 transformed for tiles of `tile` x `tile` results, `lanes` of them side by side: \
              y[place, m / lanes, c, m % lanes]",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_filters,
        reference: filters,
        edge: Edge::none,
        lower: lower_filters,
        sample: |seed| {
            let lanes = [4, 16, 8][seed as usize % 3];
            let w = Rng(seed).dense(&[2 * lanes, 5, 3, 3]);
            (vec![w], attrs(&[tile_attr(seed), ("lanes", Attr::Int(lanes as i64))]))
        },
    },
    OpRow {
        name: "winograd_output",
        doc: "products x[place, tile, m / lanes, m % lanes] of transformed tiles transformed back into planes y[n, m] of the `extents`, \
              of all or the first `channels`",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_output,
        reference: output,
        edge: Edge::none,
        lower: lower_output,
        sample: |seed| {
            let (m, lanes) = (tile_of(seed), [4, 16, 8][seed as usize % 3]);
            let plane = if seed % 4 < 2 { [m, 2 * m] } else { [m - 1, 2 * m - 1] };
            let mut at = attrs(&[tile_attr(seed), ("extents", Attr::Ints(plane.map(|n| n as i64).into()))]);
            // The last block of channels may be half padding.
            if seed % 4 == 1 {
                at.insert("channels".into(), Attr::Int(3 * lanes as i64 / 2));
            }
            (vec![Rng(seed).dense(&[(m + 2) * (m + 2), 4, 2, lanes])], at)
        },
    },
];
