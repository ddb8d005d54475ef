//! Convolutions by Winograd's algorithm, a band of tiles at a time: all that is made on the way is near, and cores share the bands. Channels
//! are in lanes but for planes, which are turned in squares: the input's on the way in, the results' on the way out.

use super::filters::{channel_tile, in_registers, lanes_of, most_positions};
use super::product::{extent, fuse_to};
use super::{LANES, contract_where_picked, temporaries, tiles, write_out_transform};
use crate::{Schedule, ScheduleError};
use lathe_ir::graph::Form;
use lathe_ir::tensor::find_loop;
use lathe_machine::Target;

/// The nests in front of the products: the input's rows, what is around them, of which some may not be there, and the tiles of them.
const COPY: &str = "c";
const AROUND: [&str; 4] = ["a", "b", "l", "r"];
const TILES: &str = "i";
/// The nests of the products, and of what they are transformed back to.
const PRODUCTS: &str = "p";
const BACK: &str = "o";

/// Schedules a convolution in bands (the operator `winograd`), with what stands behind; `false` where it is none.
pub(super) fn apply(s: &mut Schedule, parts: &[(Form, String)], target: &Target) -> bool {
    let Some(((_, p), behind)) = parts.split_first() else { return false };
    let behind: Vec<&str> = behind.iter().map(|(_, p)| p.as_str()).collect();
    let mut banded = s.clone();
    let done = near(&mut banded, p, &behind, target).is_some_and(|r| r.is_ok());
    if done {
        *s = banded;
    }
    done
}

fn extent_of(s: &Schedule, var: &str) -> Option<i64> {
    find_loop(&s.kernel().body, var).and_then(|l| extent(&l))
}

/// `None` where the nests are not those, or of sizes that this is not for.
fn near(s: &mut Schedule, p: &str, behind: &[&str], target: &Target) -> Option<Result<(), ScheduleError>> {
    let channels = extent_of(s, &format!("{p}_{COPY}2"))?;
    let (blocks, lanes) =
        (extent_of(s, &format!("{p}_{PRODUCTS}3"))?, extent_of(s, &format!("{p}_{PRODUCTS}4"))?);
    let along = extent_of(s, &format!("{p}_{PRODUCTS}5"))?;
    (lanes_of(blocks * lanes, target) == Some(lanes)).then_some(())?;
    let [bands, filters, height, width] =
        [format!("{p}_{COPY}1"), format!("{p}_1"), format!("{p}_2"), format!("{p}_3")]
            .map(|l| extent_of(s, &l));
    let results = s.kernel().buffer(&format!("{p}_results"))?;
    let rows = results.shape.get(2)?.as_const()?;
    let tile = channel_tile(blocks * lanes, &[along], false, target);
    let sizes = Sizes {
        inner: lanes_of(channels, target)?,
        columns: extent_of(s, &format!("{p}_{COPY}4"))?,
        // Planes are turned a vector of them at a time, or half of one.
        planes: [LANES, LANES / 2].into_iter().find(|l| filters.is_some_and(|n| n % l == 0))?,
        width: width?,
        rows,
        vectors: tile.map_or(1, |t| t.channels / lanes),
        positions: tile.map_or(1, |t| t.positions),
        along,
        blocks,
        lanes,
    };
    // More than one band, or there is nothing to share and nothing that is nearer.
    (bands? > 1 && height? > rows).then_some(())?;
    Some(schedule(s, p, behind, &sizes, target))
}

struct Sizes {
    /// Channels in lanes where tiles are made, and planes that are turned at a time.
    inner: i64,
    planes: i64,
    /// Of the input, and of the results.
    columns: i64,
    width: i64,
    /// Of results in a band.
    rows: i64,
    /// Blocks of filters, their lanes, those of a tile of the products, and positions of it and of the band.
    blocks: i64,
    lanes: i64,
    vectors: i64,
    positions: i64,
    along: i64,
}

fn schedule(
    s: &mut Schedule,
    p: &str,
    behind: &[&str],
    z: &Sizes,
    target: &Target,
) -> Result<(), ScheduleError> {
    let around: Vec<&str> =
        AROUND.into_iter().filter(|w| find_loop(&s.kernel().body, &format!("{p}_{w}0")).is_some()).collect();
    let outputs: Vec<&str> = [&[p], behind].concat();
    let band = format!("{p}_{COPY}");
    // All nests run over images and bands together.
    for o in &outputs {
        s.step(&format!("split {o}_2 {}", z.rows))?;
        s.step(&format!("interchange {o}_1"))?;
    }
    for (axis, plane) in [("0", "0"), ("1", "2.o")] {
        for w in around.iter().chain(&[TILES, PRODUCTS, BACK]) {
            s.step(&format!("join {band}{axis} {p}_{w}{axis}"))?;
        }
        for o in &outputs {
            s.step(&format!("join {band}{axis} {o}_{plane}"))?;
        }
    }
    // In front of the products a vector of channels at a time, and behind them a few planes and a row of them.
    for w in [&[COPY, TILES][..], &around].concat() {
        s.step(&format!("split {p}_{w}2 {}", z.inner))?;
    }
    for w in around.iter().chain(&[TILES]) {
        s.step(&format!("join {band}2.o {p}_{w}2.o"))?;
    }
    for o in &outputs {
        s.step(&format!("split {o}_1 {}", z.planes))?;
        s.step(&format!("interchange {o}_1.i"))?;
    }
    let made = temporaries(s.kernel());
    for axis in ["1.o", "2.i"] {
        for o in behind {
            s.step(&format!("join {p}_{axis} {o}_{axis}"))?;
        }
        contract_where_picked(s, &made);
    }
    // Each nest by itself.
    turned_in(s, p, z.columns)?;
    for w in &around {
        for _ in 0..2 {
            s.step(&format!("interchange {p}_{w}2.i"))?;
        }
        s.step(&format!("vectorize {p}_{w}2.i"))?;
    }
    for (w, l) in [(TILES, "2.i"), (BACK, "3")] {
        s.step(&format!("sink {p}_{w}{l}"))?;
        s.step(&format!("vectorize {p}_{w}{l}"))?;
        write_out_transform(s, &format!("{p}_{w}"))?;
    }
    products(s, &format!("{p}_{PRODUCTS}"), z, target)?;
    turned_out(s, p, z.width)?;
    if let [first, rest @ ..] = behind {
        for axis in ["1.i", "3"] {
            for o in rest {
                s.step(&format!("join {first}_{axis} {o}_{axis}"))?;
            }
        }
        // Only what was turned crosses the nests.
        contract_where_picked(s, &made);
        tiles::rows(s, &format!("{first}_3"))?;
    }
    fuse_to(s, &format!("{band}1"))
}

/// Rows of planes to rows with channels side by side.
fn turned_in(s: &mut Schedule, p: &str, columns: i64) -> Result<(), ScheduleError> {
    let (lanes, column) = (format!("{p}_{COPY}2.i"), format!("{p}_{COPY}4"));
    for _ in 0..2 {
        s.step(&format!("interchange {lanes}"))?;
    }
    if columns > LANES && columns % LANES > 0 {
        s.step(&format!("peel {column} {LANES}"))?;
        s.step(&format!("unroll {column}.p"))?;
    }
    if columns > LANES {
        s.step(&format!("split {column} {LANES}"))?;
    }
    s.step(&format!("vectorize {lanes}"))?;
    s.step(&format!("unroll {column}{}", if columns > LANES { ".i" } else { "" }))
}

/// Rows with channels side by side to rows of planes.
fn turned_out(s: &mut Schedule, p: &str, width: i64) -> Result<(), ScheduleError> {
    let (plane, column) = (format!("{p}_1.i"), format!("{p}_3"));
    if width < LANES {
        s.step(&format!("vectorize {column} masked"))?;
    } else {
        if width % LANES > 0 {
            s.step(&format!("peel {column} {LANES}"))?;
        }
        s.step(&format!("split {column} {LANES}"))?;
        s.step(&format!("sink {plane} {column}.i {column}.p"))?;
        s.step(&format!("vectorize {column}.i"))?;
        if width % LANES > 0 {
            s.step(&format!("vectorize {column}.p masked"))?;
        }
    }
    s.step(&format!("unroll {plane}"))
}

/// Products of a band's tiles with filters that lie side by side.
fn products(s: &mut Schedule, p: &str, z: &Sizes, target: &Target) -> Result<(), ScheduleError> {
    let (blocks, lanes, n) = (format!("{p}3"), format!("{p}4"), format!("{p}5"));
    let most = |vectors: i64| most_positions(vectors, z.lanes, target);
    let vectors = s.choose("vectors", (1..=8).filter(|v| z.blocks % v == 0 && most(*v) > 0), z.vectors);
    let fit = 1..=most(vectors).min(z.along);
    let positions = s.choose("positions", fit.clone(), z.positions.min(*fit.end()));
    s.step(&format!("split {blocks} {vectors}"))?;
    s.step(&format!("interchange {lanes}"))?;
    s.step(&format!("interchange {blocks}.i"))?;
    in_registers(s, &n, positions, z.along, [&format!("{blocks}.i"), &lanes])
}
