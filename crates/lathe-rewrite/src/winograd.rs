//! `winograd`: convolutions of 3x3 with constant filters become products of transformed tiles, where that takes less time. Filters are
//! transformed once, when the program is loaded. Where they stay in the second cache, all is one operator, which computes a band of tiles
//! at a time; otherwise each step is one, for all tiles.
//!
//! Results are not those of a sum of products in any order. Of the exact ones they are, to first order, within `(c + 24) u` times what
//! the same transforms and products give of absolute values: `|A^T| ((|G| |w| |G^T|) * (|B^T| |x| |B|), summed over c channels) |A|`, with
//! `u = 2^-24`. A factor goes through at most 4 + 4 roundings in a filter's transform, 3 + 3 in a tile's, one a channel, its product's
//! own, and 4 + 4 on the way back (as Barabasz et al. count in "Error Analysis and Improving the Accuracy of Winograd Convolution for
//! Deep Neural Networks", 2020). Larger tiles have larger factors, and are taken where they are faster by a tenth.

use crate::Pass;
use lathe_ir::graph::{
    Attr, Attrs, Graph, Node, OpTable, Source, Type, ValueId, float_attr, int_attr, ints_attr, str_attr,
};
use lathe_ir::{DType, Int, IrError};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag};

pub(crate) const WINOGRAD: Pass = Pass {
    name: "winograd",
    doc: "convolutions of 3x3 with constant filters by Winograd's algorithm, where that is faster",
    tag: Tag::Approximates,
    run,
};

/// Cycles that products of so many floats take.
fn products(n: i64) -> i64 {
    n * 10 / 136
}

/// Bytes of filters that stay in the second cache.
const NEAR: i64 = 768 << 10;
/// Tiles of a band for which reading the filters again is no loss, and most in a band of several rows.
const MANY: i64 = 12;
const MOST: i64 = 16;
/// Most rows of tiles of a band.
const MOST_ROWS: i64 = 4;
/// Tiles that take as long as reading the filters once more.
const READING: i64 = 4;

/// Cycles to read so many floats of filters, which the second cache does not hold.
fn reading(n: i64) -> i64 {
    n * 2 / 3
}

/// A convolution that may be rewritten.
struct Convolution {
    images: i64,
    channels: i64,
    filters: i64,
    /// Filters that lie side by side.
    lanes: i64,
    plane: [i64; 2],
}

impl Convolution {
    fn of(g: &Graph, n: &Node, target: &Target) -> Option<Convolution> {
        let single = |v: ValueId| g.ty(v).dtype == DType::F32 && g.ty(v).encoding.is_none();
        let shape = |v: ValueId| -> Option<[i64; 4]> {
            let all: Option<Vec<i64>> = g.ty(v).shape.iter().map(Int::as_const).collect();
            all?.try_into().ok()
        };
        let each = |name: &str| ints_attr(&n.attrs, name).iter().all(|s| *s == 1);
        let plain = &*n.op == "conv" && each("strides") && each("dilations");
        (plain && int_attr(&n.attrs, "groups").unwrap_or(1) == 1).then_some(())?;
        (n.inputs.iter().all(|v| single(*v)) && matches!(g.value(n.inputs[1]).source, Source::Const(_)))
            .then_some(())?;
        let ([_, channels, 3, 3], [images, filters, h, w]) = (shape(n.inputs[1])?, shape(n.outputs[0])?)
        else {
            return None;
        };
        // Both are in lanes: of a whole vector, or of a half where that is a register. A last half vector of filters gets zeros behind it.
        let register = if target.vector_bits >= 512 { 16 } else { 8 };
        let lanes = if filters % 16 == 0 { 16 } else { register };
        (channels % register == 0 && filters % 8 == 0).then_some(Convolution {
            images,
            channels,
            filters,
            lanes,
            plane: [h, w],
        })
    }

    fn tiles(&self, tile: i64) -> i64 {
        self.images * self.plane.iter().map(|n| (n + tile - 1) / tile).product::<i64>()
    }

    /// Filters in whole vectors.
    fn padded(&self) -> i64 {
        (self.filters + self.lanes - 1) / self.lanes * self.lanes
    }

    /// What is chosen of: all convolutions of these sizes.
    fn choice(&self) -> String {
        let Convolution { images, channels, filters, plane: [h, w], .. } = self;
        format!("winograd.{filters}x{channels}.{images}x{h}x{w}")
    }

    /// Bands of so many rows of tiles.
    fn bands(&self, tile: i64, rows: i64) -> i64 {
        let down = (self.plane[0] + tile - 1) / tile;
        (down + rows - 1) / rows
    }

    /// Rows of tiles that are computed together, so that all that is made on the way stays in the second cache: where it holds the filters,
    /// and there are bands for several cores.
    fn band(&self, tile: i64) -> Option<i64> {
        let filters = 4 * (tile + 2) * (tile + 2) * self.channels * self.padded();
        let across = (self.plane[1] + tile - 1) / tile;
        let suits = |rows: &i64| {
            let tiles = rows * across;
            self.bands(tile, *rows) > 1
                && (*rows == 1 || tiles <= MOST)
                && (tiles >= MANY || filters <= NEAR / 4)
        };
        // An even number of bands, each of which reads the filters.
        let cost = |rows: &i64| {
            let bands = self.bands(tile, *rows);
            (bands + bands % 2) * (rows * across + READING)
        };
        (1..=MOST_ROWS).filter(suits).min_by_key(cost).filter(|_| filters <= NEAR)
    }

    /// Cycles of the sum of products.
    fn direct(&self) -> i64 {
        let filters = 9 * self.channels * self.filters;
        products(filters * self.images * self.plane[0] * self.plane[1]) + reading(filters)
    }

    /// Cycles with tiles of so many rows of results: the products, reading their filters, and the transforms, element by element.
    fn tiled(&self, tile: i64) -> i64 {
        let (places, tiles) = ((tile + 2) * (tile + 2), self.tiles(tile));
        let filters = places * self.channels * self.padded();
        products(filters * tiles) + reading(filters) + places * tiles * (self.channels + self.filters)
    }
}

/// Rows of a tile of results, where tiles are worth it.
fn tile(c: &Convolution) -> Option<i64> {
    let faster = |a: i64, b: i64| 10 * a < 9 * b;
    let tile = if faster(c.tiled(4), c.tiled(2)) { 4 } else { 2 };
    faster(c.tiled(tile), c.direct()).then_some(tile)
}

fn int(n: i64) -> Attr {
    Attr::Int(n)
}

fn run(g: &Graph, _: &OpTable, target: &Target, choices: &mut Choices) -> Result<Graph, IrError> {
    let mut out = Graph { nodes: vec![], ..g.clone() };
    for n in &g.nodes {
        let found = Convolution::of(g, n, target).map(|c| {
            // 0 is a sum of products.
            (choices.choose(&c.choice(), [0, 2, 4], tile(&c).unwrap_or(0)), c)
        });
        match found {
            Some((tile, c)) if tile > 0 => {
                // 0 is each step of the algorithm for all tiles.
                let rule = c.band(tile).unwrap_or(0);
                let options = (1..=MOST_ROWS).filter(|rows| c.bands(tile, *rows) > 1).chain([0]);
                let rows = choices.choose(&format!("{}.band", c.choice()), options, rule);
                rewrite(g, &mut out, n, &c, tile, rows);
            }
            _ => out.nodes.push(n.clone()),
        }
    }
    // Padding that got larger is read no more as it was.
    Ok(out.without_dead(0))
}

/// The node that pads what a convolution reads with a constant.
fn padding<'g>(g: &'g Graph, n: &Node) -> Option<&'g Node> {
    let constant = |p: &Node| str_attr(&p.attrs, "mode").is_none_or(|m| m == "constant");
    g.nodes.iter().find(|p| &*p.op == "pad" && p.outputs[0] == n.inputs[0] && constant(p))
}

/// Whether padding is of zeros around planes, as far as windows reach.
fn is_around(p: &Node) -> bool {
    let zero = float_attr(&p.attrs, "value").is_none_or(|v| v == 0.0);
    let dense = ints_attr(&p.attrs, "interior").iter().all(|n| *n == 0);
    let around =
        |by: &[i64]| by.len() == 4 && by[..2] == [0, 0] && by[2..].iter().all(|n| (0..3).contains(n));
    zero && dense && ["low", "high"].iter().all(|w| around(ints_attr(&p.attrs, w)))
}

/// `rows` of tiles are computed together, or 0: all.
fn rewrite(g: &Graph, out: &mut Graph, n: &Node, c: &Convolution, tile: i64, rows: i64) {
    let name = g.value(n.outputs[0]).name.clone();
    let mut node = |op: &str, word: &str, inputs: &[ValueId], attrs: Attrs, shape: &[i64]| {
        let shape: Vec<Int> = shape.iter().map(|n| Int::from(*n)).collect();
        let v = out.add_value(&format!("{name}.{word}"), Type::dense(DType::F32, &shape), Source::Node);
        out.nodes.push(Node { op: op.into(), inputs: inputs.to_vec(), attrs, outputs: vec![v] });
        v
    };
    let (lanes, padded) = (c.lanes, c.padded());
    let (places, tiles) = ((tile + 2) * (tile + 2), c.tiles(tile));
    let attr = |name: &str, v: Attr| (lathe_ir::Name::from(name), v);
    let mut filters = n.inputs[1];
    if padded > c.filters {
        let around = |n: i64| Attr::Ints(vec![n, 0, 0, 0]);
        let zeros = [attr("low", around(0)), attr("high", around(padded - c.filters))].into();
        filters = node("pad", "more", &[filters], zeros, &[padded, c.channels, 3, 3]);
    }
    let filters = node(
        "winograd_filters",
        "filters",
        &[filters],
        [attr("tile", int(tile)), attr("lanes", int(lanes))].into(),
        &[places, padded / lanes, c.channels, lanes],
    );
    if rows > 0 {
        let padding = padding(g, n).filter(|p| is_around(p));
        let low = padding.map_or(vec![0, 0], |p| ints_attr(&p.attrs, "low")[2..].to_vec());
        let extents = Attr::Ints(c.plane.to_vec());
        let mut attrs: Attrs =
            [("tile", int(tile)), ("rows", int(rows)), ("low", Attr::Ints(low)), ("extents", extents)]
                .map(|(name, v)| attr(name, v))
                .into();
        if padded > c.filters {
            attrs.insert("channels".into(), int(c.filters));
        }
        let x = padding.map_or(n.inputs[0], |p| p.inputs[0]);
        out.nodes.push(Node {
            op: "winograd".into(),
            inputs: vec![x, filters],
            attrs,
            outputs: n.outputs.clone(),
        });
        return;
    }
    // Whole tiles: what is around the input is a little more.
    let more = c.plane.map(|n| (n + tile - 1) / tile * tile - n);
    let x = match more {
        [0, 0] => n.inputs[0],
        _ => {
            let padding = padding(g, n);
            let mut attrs = padding
                .map_or_else(|| Attrs::from([attr("low", Attr::Ints(vec![0; 4]))]), |p| p.attrs.clone());
            let high = padding.map_or(&[][..], |p| ints_attr(&p.attrs, "high"));
            let high = (0..4).map(|d| high.get(d).unwrap_or(&0) + [0, 0, more[0], more[1]][d]).collect();
            attrs.insert("high".into(), Attr::Ints(high));
            let from = padding.map_or(n.inputs[0], |p| p.inputs[0]);
            let x: Vec<i64> = g.ty(n.inputs[0]).shape.iter().filter_map(Int::as_const).collect();
            node("pad", "around", &[from], attrs, &[x[0], x[1], x[2] + more[0], x[3] + more[1]])
        }
    };
    let input =
        node("winograd_input", "tiles", &[x], [attr("tile", int(tile))].into(), &[places, tiles, c.channels]);
    let axes = |v: i64| Attr::Ints(vec![v]);
    let along =
        [attr("batch_x", axes(0)), attr("batch_y", axes(0)), attr("sum_x", axes(2)), attr("sum_y", axes(2))];
    let shape = [places, tiles, padded / lanes, lanes];
    let products = node("dot", "products", &[input, filters], along.into(), &shape);
    let mut attrs: Attrs = [attr("tile", int(tile)), attr("extents", Attr::Ints(c.plane.to_vec()))].into();
    if padded > c.filters {
        attrs.insert("channels".into(), int(c.filters));
    }
    out.nodes.push(Node {
        op: "winograd_output".into(),
        inputs: vec![products],
        attrs,
        outputs: n.outputs.clone(),
    });
}
