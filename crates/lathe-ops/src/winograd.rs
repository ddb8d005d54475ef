//! Convolutions of 3x3 by Winograd's algorithm (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016): filters
//! and tiles of the input are transformed, multiplied place by place as matrices over the channels, and the products transformed
//! back. `F(m x m, 3 x 3)` takes `(m + 2)^2` products for `m^2` results, where a sum of products takes `9 m^2`.

use crate::norm::array;
use crate::reduce::{accumulated, ty_of};
use crate::require;
use crate::sample::{Rng, attrs, extents, result};
use crate::typed::{constant, indices, nest, nest_named, ravel};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, int_attr, ints_attr};
use lathe_ir::tensor::{Binary, Buffer, Expr, Iter, REGISTER, Stmt};
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

/// The statements of `left * x * left^T`, where `x` reads an element and `store` writes one: what is read is read once. Loops that take the
/// elements and give the results are called `ta`, `tb`, `ga` and `gb` behind the word.
fn transform(
    l: &Lowering,
    word: &str,
    left: Matrix,
    x: &dyn Fn(&Expr, &Expr) -> Expr,
    store: &dyn Fn(&str, &Expr, &Expr, Expr) -> Stmt,
) -> Vec<Stmt> {
    let (n, m) = (left[0].len(), left.len());
    let name = |what: &str| l.name(&format!("{word}{what}"));
    let (taken, half, given) = (name("taken"), name("half"), name("given"));
    let element = |of: &str, at: usize| Expr::load(of, &[(at as i64).into()]);
    let put = |of: &str, at: usize, v: Expr| Stmt::store(&format!("{of}{at}"), of, &[(at as i64).into()], v);
    let own = |name: &str, n: usize| {
        let b = Buffer::dense(name, DType::F32, &[Int::from(n as i64)], REGISTER);
        Stmt::Alloc(Arc::new(b))
    };
    let each = |of: &str, n: usize, body: &dyn Fn(&Expr, &Expr) -> Stmt| {
        let [a, b] = ["a", "b"].map(|axis| format!("{word}{of}{axis}"));
        let inner = body(&l.var(&a), &l.var(&b));
        let inner = Stmt::for_(&l.name(&b), (n as i64).into(), Iter::Spatial, vec![inner]);
        Stmt::for_(&l.name(&a), (n as i64).into(), Iter::Spatial, vec![inner])
    };
    let at = |a: &Expr, b: &Expr, n: usize| [a.clone() * n as i64 + b.clone()];
    let mut body = vec![own(&taken, n * n), own(&half, m * n), own(&given, m * m)];
    body.push(each("t", n, &|a, b| Stmt::store(&name("take"), &taken, &at(a, b, n), x(a, b))));
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        body.push(put(&half, i * n + j, combined(left[i], &|k| element(&taken, k * n + j))));
    }
    for (i, j) in (0..m).flat_map(|i| (0..m).map(move |j| (i, j))) {
        body.push(put(&given, i * m + j, combined(left[j], &|k| element(&half, i * n + k))));
    }
    body.push(each("g", m, &|a, b| store(&name("give"), a, b, Expr::load(&given, &at(a, b, m)))));
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
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let s = four(std::slice::from_ref(&x.ty)).expect("inferred before");
    let tiles = [(s[2] - 2) / f.tile, (s[3] - 2) / f.tile];
    nest(l, &[s[0].into(), s[1].into(), tiles[0].into(), tiles[1].into()], |i| {
        let tile = (i[0].clone() * tiles[0] + i[2].clone()) * tiles[1] + i[3].clone();
        let along = |i: &Expr, k: &Expr| i.clone() * f.tile + k.clone();
        let read =
            |a: &Expr, b: &Expr| x.read(&[i[0].clone(), i[1].clone(), along(&i[2], a), along(&i[3], b)]);
        transform(l, "", f.input, &read, &|name, a, b, v| {
            y.write(name, &[place(a, b, f), tile.clone(), i[1].clone()], v)
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
    let (w, y) = (&l.ins[0], &l.outs[0]);
    let lanes = constant(&y.ty.shape[3]).expect("inferred before");
    nest(l, &y.ty.shape[1..], |i| {
        let from = i[0].clone() * lanes + i[2].clone();
        let read = |a: &Expr, b: &Expr| w.read(&[from.clone(), i[1].clone(), a.clone(), b.clone()]);
        transform(l, "", f.filters, &read, &|name, a, b, v| {
            y.write(name, &[&[place(a, b, f)], i].concat(), v)
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
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let (outer, tiles, _) = tiles(std::slice::from_ref(&x.ty), &l.attrs).expect("inferred before");
    let lanes = constant(&x.ty.shape[3]).expect("inferred before");
    let whole = l.name("whole");
    let ints = |n: &[i64]| n.iter().map(|n| Int::from(*n)).collect::<Vec<_>>();
    let room = ints(&[outer, [tiles[0] * f.tile, tiles[1] * f.tile]].concat());
    let mut body = vec![array(&whole, &room)];
    body.extend(nest_named(l, "t", &ints(&[outer, tiles].concat()), |i| {
        let tile = (i[0].clone() * tiles[0] + i[2].clone()) * tiles[1] + i[3].clone();
        let channel = [i[1].clone() / lanes, i[1].clone() % lanes];
        let read = |a: &Expr, b: &Expr| {
            let at = [place(a, b, f), tile.clone()];
            x.read(&[at, channel.clone()].concat())
        };
        let along = |i: &Expr, k: &Expr| i.clone() * f.tile + k.clone();
        transform(l, "", f.output, &read, &|name, a, b, v| {
            Stmt::store(name, &whole, &[i[0].clone(), i[1].clone(), along(&i[2], a), along(&i[3], b)], v)
        })
    }));
    body.extend(nest(l, &y.ty.shape, |i| vec![y.write(&l.name("y"), i, Expr::load(&whole, i))]));
    body
}

/// A whole convolution: planes with zeros around them, tiles of their results, and the bands of rows of tiles that are computed one after
/// the other.
struct Bands {
    f: &'static Transforms,
    images: i64,
    channels: i64,
    /// Of the input.
    plane: [i64; 2],
    /// Zeros in front of its rows and columns.
    low: [i64; 2],
    /// Blocks of filters, and filters side by side.
    blocks: [i64; 2],
    /// Filters, without those that fill the last block.
    filters: i64,
    /// Of the results.
    extents: [i64; 2],
    /// Tiles of a band along each axis, and bands.
    tiles: [i64; 2],
    bands: i64,
}

impl Bands {
    fn of(t: &[Type], a: &Attrs) -> Result<Bands, String> {
        require(t.len() == 2, "expects planes and transformed filters")?;
        let f = transforms(a)?;
        let ([images, channels, h, w], [places, blocks, c, lanes]) = (four(&t[..1])?, four(&t[1..])?);
        let filters = int_attr(a, "channels").unwrap_or(blocks * lanes);
        require((1..=blocks * lanes).contains(&filters), "there are not so many `channels`")?;
        let fits = c == channels && places == (f.input.len() * f.input.len()) as i64;
        require(fits, "the filters are not of these channels and tiles")?;
        let (&[oh, ow], &[top, left]) = (ints_attr(a, "extents"), ints_attr(a, "low")) else {
            return Err("`extents` and `low` are those of a plane".into());
        };
        // What is in front is less than a window, and so is what is behind.
        let around = |n: i64, low: i64, out: i64| {
            n > 0 && out > 0 && (0..3).contains(&low) && (0..3).contains(&(out + 2 - low - n))
        };
        require(around(h, top, oh) && around(w, left, ow), "`extents` are not those of windows of 3x3")?;
        let rows = int_attr(a, "rows").filter(|r| *r > 0).ok_or("a band has `rows` of tiles")?;
        let over = |n: i64, of: i64| (n + of - 1) / of;
        let tiles = [over(oh, f.tile), over(ow, f.tile)];
        Ok(Bands {
            f,
            images,
            channels,
            plane: [h, w],
            low: [top, left],
            blocks: [blocks, lanes],
            filters,
            extents: [oh, ow],
            tiles: [rows, tiles[1]],
            bands: over(tiles[0], rows),
        })
    }

    /// Rows of results of a band.
    fn rows(&self) -> i64 {
        self.tiles[0] * self.f.tile
    }

    /// Columns of the tiles' results.
    fn columns(&self) -> i64 {
        self.tiles[1] * self.f.tile
    }

    fn places(&self) -> i64 {
        (self.f.input.len() * self.f.input.len()) as i64
    }
}

fn infer_bands(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let b = Bands::of(t, a)?;
    Ok(dense(&[b.images, b.filters, b.extents[0], b.extents[1]]))
}

fn bands(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let types: Vec<Type> = a.iter().map(ty_of).collect();
    let b = Bands::of(&types, at).expect("inferred before");
    let (m, n, to) = (b.f.tile, b.f.input.len(), extents(&t[0]));
    let (x, u) = (a[0].values(), a[1].values());
    let mut y = vec![0.0; to.iter().product()];
    let tiles = b.extents.map(|n| (n + m - 1) / m);
    for i in indices(&[to[0], tiles[0] as usize, tiles[1] as usize]) {
        let element = |c: usize, k: usize| {
            let place = |d: usize, k: usize| i[d + 1] as i64 * m + k as i64 - b.low[d];
            let [r, w] = [place(0, k / n), place(1, k % n)];
            let inside = (0..b.plane[0]).contains(&r) && (0..b.plane[1]).contains(&w);
            if inside { x[ravel(&[i[0], c, r as usize, w as usize], &a[0].shape)] } else { 0.0 }
        };
        let transformed: Vec<Vec<f64>> = (0..b.channels as usize)
            .map(|c| both(b.f.input, &(0..n * n).map(|k| element(c, k)).collect::<Vec<_>>()))
            .collect();
        for o in 0..to[1] {
            let lanes = b.blocks[1] as usize;
            let sum = |k: usize| {
                let weight = |c: usize| u[ravel(&[k, o / lanes, c, o % lanes], &a[1].shape)];
                (0..b.channels as usize).map(|c| transformed[c][k] * weight(c)).sum()
            };
            let products: Vec<f64> = (0..n * n).map(sum).collect();
            for (k, v) in both(b.f.output, &products).into_iter().enumerate() {
                let at = [i[0], o, i[1] * m as usize + k / m as usize, i[2] * m as usize + k % m as usize];
                if at[2] < to[2] && at[3] < to[3] {
                    y[ravel(&at, &to)] = v;
                }
            }
        }
    }
    vec![result(&t[0], &y)]
}

/// For each band: its rows of the input with channels side by side, their tiles transformed, products, and results with channels side by
/// side; then the planes.
fn lower_bands(l: &Lowering) -> Vec<Stmt> {
    let types: Vec<Type> = l.ins.iter().map(|o| o.ty.clone()).collect();
    let b = Bands::of(&types, &l.attrs).expect("inferred before");
    let (x, u, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
    let ints = |n: &[i64]| n.iter().map(|n| Int::from(*n)).collect::<Vec<_>>();
    let outer = |rest: &[i64]| ints(&[&[b.images, b.bands][..], rest].concat());
    let [near, tiles, products, results] = ["near", "tiles", "products", "results"].map(|w| l.name(w));
    let (rows, columns, all) = (b.rows() + 2, b.columns() + 2, b.tiles[0] * b.tiles[1]);
    let [blocks, lanes] = b.blocks;
    let mut body = vec![
        array(&near, &outer(&[rows, columns, b.channels])),
        array(&tiles, &outer(&[b.places(), all, b.channels])),
        array(&products, &outer(&[b.places(), all, blocks, lanes])),
        array(&results, &outer(&[b.rows(), b.columns(), blocks * lanes])),
    ];
    let put = |name: &str, n: &Expr, t: &Expr, at: [Expr; 3], v: Expr| {
        Stmt::store(&l.name(name), &near, &[&[n.clone(), t.clone()][..], &at].concat(), v)
    };
    // Rows that are not there are another one's until they are filled.
    let row = |t: &Expr, r: &Expr| {
        let r = t.clone() * b.rows() + r.clone() - b.low[0];
        r.bin(Binary::Max, &0.into()).bin(Binary::Min, &(b.plane[0] - 1).into())
    };
    body.extend(nest_named(l, "c", &outer(&[b.channels, rows, b.plane[1]]), |i| {
        let [n, t, c, r, w] = i else { unreachable!("as many as loops") };
        let from = x.read(&[n.clone(), c.clone(), row(t, r), w.clone()]);
        vec![put("copy", n, t, [r.clone(), w.clone() + b.low[1], c.clone()], from)]
    }));
    // Zeros around: rows above and below, of which each band has its own number, and columns.
    let above = |t: &Expr| Expr::from(b.low[0]) - t.clone() * b.rows();
    let below = |t: &Expr| t.clone() * b.rows() + (rows - b.low[0] - b.plane[0]);
    let missing = |n: Expr| n.bin(Binary::Max, &0.into());
    let every = |n: i64| move |_: &Expr| Expr::from(n);
    let right = columns - b.low[1] - b.plane[1];
    type Count<'a> = &'a dyn Fn(&Expr) -> Expr;
    let edges: [(&str, bool, [Count<'_>; 2], [i64; 2]); 4] = [
        ("a", b.low[0] > 0, [&|t| missing(above(t)), &every(columns)], [0, 0]),
        (
            "b",
            (b.bands - 1) * b.rows() + rows > b.low[0] + b.plane[0],
            [&|t| missing(below(t)), &every(columns)],
            [1, 0],
        ),
        ("l", b.low[1] > 0, [&every(rows), &every(b.low[1])], [0, 0]),
        ("r", right > 0, [&every(rows), &every(right)], [0, 1]),
    ];
    for (word, _, counts, behind) in edges.iter().filter(|(_, some, ..)| *some) {
        body.extend(nest_named(l, word, &outer(&[b.channels]), |i| {
            let [n, t, c] = i else { unreachable!("as many as loops") };
            let place = |d: usize, all: i64| {
                let at = l.var(&format!("{word}{}", 3 + d));
                if behind[d] > 0 { Expr::from(all - 1) - at } else { at }
            };
            let zero = put(
                &format!("{word}z"),
                n,
                t,
                [place(0, rows), place(1, columns), c.clone()],
                Expr::f32(0.0),
            );
            let inner = Stmt::for_(&l.name(&format!("{word}4")), counts[1](t), Iter::Spatial, vec![zero]);
            vec![Stmt::for_(&l.name(&format!("{word}3")), counts[0](t), Iter::Spatial, vec![inner])]
        }));
    }
    let tile = |r: &Expr, w: &Expr| r.clone() * b.tiles[1] + w.clone();
    let along = |i: &Expr, k: &Expr| i.clone() * b.f.tile + k.clone();
    body.extend(nest_named(l, "i", &outer(&[b.channels, b.tiles[0], b.tiles[1]]), |i| {
        let [n, t, c, r, w] = i else { unreachable!("as many as loops") };
        let read = |p: &Expr, q: &Expr| {
            Expr::load(&near, &[n.clone(), t.clone(), along(r, p), along(w, q), c.clone()])
        };
        transform(l, "i", b.f.input, &read, &|name, p, q, v| {
            let at = [n.clone(), t.clone(), place(p, q, b.f), tile(r, w), c.clone()];
            Stmt::store(name, &tiles, &at, v)
        })
    }));
    body.extend(nest_named(l, "p", &outer(&[b.places(), blocks, lanes, all]), |i| {
        let [n, t, p, o, m, q] = i else { unreachable!("as many as loops") };
        let (mut body, sum) = accumulated(l, "sum", DType::F32, &ints(&[b.channels]), |k| {
            let at = [n.clone(), t.clone(), p.clone(), q.clone(), k[0].clone()];
            &Expr::load(&tiles, &at) * &u.read(&[p.clone(), o.clone(), k[0].clone(), m.clone()])
        });
        let at = [n.clone(), t.clone(), p.clone(), q.clone(), o.clone(), m.clone()];
        body.push(Stmt::store(&l.name("product"), &products, &at, sum));
        body
    }));
    body.extend(nest_named(l, "o", &outer(&[blocks, lanes, b.tiles[0], b.tiles[1]]), |i| {
        let [n, t, o, m, r, w] = i else { unreachable!("as many as loops") };
        let read = |p: &Expr, q: &Expr| {
            let at = [n.clone(), t.clone(), place(p, q, b.f), tile(r, w), o.clone(), m.clone()];
            Expr::load(&products, &at)
        };
        transform(l, "o", b.f.output, &read, &|name, p, q, v| {
            let channel = o.clone() * lanes + m.clone();
            Stmt::store(name, &results, &[n.clone(), t.clone(), along(r, p), along(w, q), channel], v)
        })
    }));
    body.extend(nest(l, &y.ty.shape, |i| {
        let band = [i[2].clone() / b.rows(), i[2].clone() % b.rows()];
        let at = [i[0].clone(), band[0].clone(), band[1].clone(), i[3].clone(), i[1].clone()];
        vec![y.write(&l.name("y"), i, Expr::load(&results, &at))]
    }));
    body
}

/// The number of a place of a transformed tile.
fn place(a: &Expr, b: &Expr, f: &Transforms) -> Expr {
    a.clone() * f.input.len() as i64 + b.clone()
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
    OpRow {
        name: "winograd",
        doc: "a convolution of 3x3 of planes x[n, c] with `low` zeros in front, results of these `extents`: tiles of `tile` x `tile` \
              results, a band of `rows` of them at a time; filters transformed as u[place, m / lanes, c, m % lanes], all or the first \
              `channels`",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_bands,
        reference: bands,
        edge: Edge::none,
        lower: lower_bands,
        sample: |seed| {
            let (m, mut r) = (tile_of(seed), Rng(seed));
            let lanes = [4, 16, 8][seed as usize % 3];
            let c = [3, 16, 8][seed as usize % 3];
            // With and without zeros around, whole tiles and others, one row of tiles or two, the last of which may be none.
            let (low, plane) =
                if seed % 2 == 0 { ([1, 1], [2 * m + 1, 3 * m]) } else { ([0, 2], [m + 2, 2 * m + 1]) };
            let extents = [[plane[0], plane[1]], [plane[0] - 2, plane[1] + 1]][seed as usize % 2];
            let ints = |n: &[usize]| Attr::Ints(n.iter().map(|n| *n as i64).collect());
            let mut at = attrs(&[
                tile_attr(seed),
                ("rows", Attr::Int(1 + seed as i64 % 2)),
                ("low", ints(&low)),
                ("extents", ints(&extents)),
            ]);
            if seed % 4 == 1 {
                at.insert("channels".into(), Attr::Int(3 * lanes as i64 / 2));
            }
            let u = [(m + 2) * (m + 2), 2, c, lanes];
            let images = 1 + seed as usize / 2 % 2;
            (vec![r.dense(&[images, c, plane[0], plane[1]]), r.dense(&u)], at)
        },
    },
];
