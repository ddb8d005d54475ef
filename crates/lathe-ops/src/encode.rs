//! Changes of storage: quantizing activations (`encode`) and packing weights (`pack`).

use crate::sample::{Rng, attrs};
use crate::{require, require_f32};
use lathe_ir::encodings::{Activations, encoding, formats};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type};
use lathe_ir::tensor::{Binary, Buffer, Expr, HOST, Iter, Stmt, Unary, WORKSPACE};
use lathe_ir::{Bounds, DType, Encoding, Field, Int, Layout, Tensor, Term, read_bits, write_bits};
use std::sync::Arc;

fn infer_encode(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && t[0].shape.len() == 2 && t[0].encoding.is_none(), "expects a dense matrix")?;
    require_f32(t)?;
    require(t[0].shape[1].as_const().is_some(), "rows are not of a constant length")?;
    let out = target(&t[0], a)?;
    require(activations(&out).is_some(), "'to' is no encoding of activations")?;
    Ok(vec![out])
}

fn activations(t: &Type) -> Option<Activations> {
    t.encoding.as_ref().and_then(|name| Activations::named(name))
}

/// The reference of `encode`: 8-bit codes `q` of the step `max |x| / 127`, and for every block of columns the scale that
/// is best for these codes: `sum(x q) / sum(q q)` has the least squared error, 1/n less than the step where n meet.
pub(crate) fn encode_a8(x: &Tensor, name: &str) -> Tensor {
    let dims: Vec<Int> = x.shape.iter().map(|d| Int::from(*d as i64)).collect();
    let e = encoding(name, &dims).expect("rows of whole blocks");
    let mut bytes = vec![0u8; e.bits.as_const().expect("constant size") as usize / 8];
    let at = |f: &str| e.field(f).expect("a field").layout.resolve(&|_| None).expect("constant layout");
    let (q, d) = (at("q"), at("d"));
    let Activations { block: group, group: sums, zero } = Activations::named(name).expect("activations");
    for (i, block) in x.to_f32().chunks(group as usize).enumerate() {
        let blocks = x.row() / group as usize;
        let (row, b) = ((i / blocks) as i64, (i % blocks) as i64);
        let amax = block.iter().fold(0f32, |m, v| m.max(v.abs()));
        let inverse = if amax == 0.0 { 0.0 } else { 127.0 / amax };
        let mut totals = vec![0; (group / sums) as usize];
        let (mut along, mut square) = (0.0, 0);
        for (j, v) in block.iter().enumerate() {
            let code = (v * inverse).round_ties_even() as i32;
            totals[j / sums as usize] += code;
            along += v * code as f32;
            square += code * code;
            write_bits(&mut bytes, q.address(&[row, b * group + j as i64]), 8, code as u64).expect("inside");
        }
        let scale = if square == 0 { 0.0 } else { along / square as f32 };
        write_bits(&mut bytes, d.address(&[row, b]), 32, scale.to_bits().into()).expect("inside");
        for (h, total) in totals.iter().enumerate() {
            let mut keep = |field: &str, bits: u64| {
                let f = e.field(field).expect("a field");
                let place = at(field).address(&[row, b * (group / sums) + h as i64]);
                write_bits(&mut bytes, place, f.dtype.bits(), bits).expect("inside");
            };
            match zero {
                None if sums == group => keep("sum", (scale * *total as f32).to_bits().into()),
                None => {
                    let digit = Activations::DIGIT as i32;
                    let [high, low] = [total.div_euclid(digit), total.rem_euclid(digit)];
                    Activations::DIGITS.iter().zip([high, low]).for_each(|(f, v)| keep(f, v as u8 as u64));
                }
                Some(0) => {}
                Some(zero) => keep("bias", (-zero as i32 * total) as u32 as u64),
            }
        }
    }
    Tensor { shape: x.shape.clone(), dtype: DType::F32, encoding: Some(Arc::new(e)), bytes }
}

/// Of a row, the largest of each block, then all codes, then what is summed over each block, then what is kept of the sums: so what is
/// done once a block is done for several blocks in lanes, and what is summed waits for no sum of the block before.
fn lower_encode(l: &Lowering) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let Activations { block: group, group: sums, zero: less } = activations(&y.ty).expect("inferred before");
    let blocks = x.ty.shape[1].div(group, &Bounds::new());
    let parts = x.ty.shape[1].div(sums, &Bounds::new());
    let t = l.var("0");
    let zero = Expr::f32(0.0);
    let field = |f: &str| y.field(f);
    // An array of one element for each block of the row, or for each part of a block.
    let array = |name: &str, of: DType, extent: &Int| {
        Stmt::Alloc(Arc::new(Buffer::dense(&l.name(name), of, std::slice::from_ref(extent), WORKSPACE)))
    };
    let element = |name: &str, v: &str| Expr::load(&l.name(name), &[l.var(v)]);
    let over = |v: &str, extent: Expr, body: Vec<Stmt>| Stmt::for_(&l.name(v), extent, Iter::Spatial, body);
    // A sum, or a maximum, over the columns of a block that begin at the number `v` of it, times its length.
    let reduced = |name: &str,
                   of: DType,
                   by: &str,
                   [v, k]: [&str; 2],
                   length: i64,
                   value: &dyn Fn(&[Expr; 2]) -> Expr| {
        let none = if of == DType::F32 { zero.clone() } else { Expr::int(0, of) };
        let at = [t.clone(), l.var(v) * length + l.var(k)];
        let place = [l.var(v)];
        let add = Stmt::reduce(&l.name(&format!("r{name}")), &l.name(name), &place, by, value(&at));
        let inner = Stmt::for_(&l.name(k), length.into(), Iter::Reduce, vec![add]);
        vec![Stmt::store(&l.name(&format!("z{name}")), &l.name(name), &place, none), inner]
    };
    let coded = |at: &[Expr; 2]| y.read_field("q", at).cast(DType::I32);
    let of_x = |at: &[Expr; 2]| x.read(at);

    let max = element("amax", "d");
    let inverse = Expr::select(&max.bin(Binary::Eq, &zero), &zero, &(&Expr::f32(127.0) / &max));
    let at = [t.clone(), l.var("b") * group + l.var("j")];
    let code = (&x.read(&at) * &element("inverse", "b")).un(Unary::Round).cast(DType::I32);
    let codes = Stmt::store(&l.name("yq"), &field("q"), &at, code.cast(DType::I8));
    let square = element("square", "e");
    let none = square.bin(Binary::Eq, &Expr::int(0, DType::I32));
    let scale = Expr::select(&none, &zero, &(&element("along", "e") / &square.cast(DType::F32)));
    let mut row = vec![
        array("amax", DType::F32, &blocks),
        array("inverse", DType::F32, &blocks),
        array("along", DType::F32, &blocks),
        array("square", DType::I32, &blocks),
        over(
            "a",
            (&blocks).into(),
            reduced("amax", DType::F32, "max", ["a", "k"], group, &|at| of_x(at).un(Unary::Abs)),
        ),
        over(
            "d",
            (&blocks).into(),
            vec![Stmt::store(&l.name("yi"), &l.name("inverse"), &[l.var("d")], inverse)],
        ),
        over("b", (&blocks).into(), vec![over("j", group.into(), vec![codes])]),
        over(
            "c",
            (&blocks).into(),
            [
                reduced("along", DType::F32, "sum", ["c", "m"], group, &|at| {
                    &of_x(at) * &coded(at).cast(DType::F32)
                }),
                reduced("square", DType::I32, "sum", ["c", "n"], group, &|at| &coded(at) * &coded(at)),
            ]
            .concat(),
        ),
        over(
            "e",
            (&blocks).into(),
            vec![Stmt::store(&l.name("yd"), &field("d"), &[t.clone(), l.var("e")], scale)],
        ),
    ];
    let total = element("sum", "f");
    let kept = match less {
        // Nothing is kept of the sums.
        Some(0) => vec![],
        Some(zero) => vec![("bias", &Expr::int(-zero, DType::I32) * &total)],
        None if sums == group => {
            vec![("sum", &Expr::load(&field("d"), &[t.clone(), l.var("f")]) * &total.cast(DType::F32))]
        }
        None => {
            let bits = Expr::int(Activations::DIGIT.trailing_zeros().into(), DType::I32);
            let low = total.bin(Binary::And, &Expr::int(Activations::DIGIT - 1, DType::I32));
            let digits = [total.bin(Binary::Shr, &bits), low].map(|v| v.cast(DType::I8));
            Activations::DIGITS.into_iter().zip(digits).collect()
        }
    };
    if !kept.is_empty() {
        row.insert(0, array("sum", DType::I32, &parts));
        row.push(over("h", (&parts).into(), reduced("sum", DType::I32, "sum", ["h", "i"], sums, &coded)));
        let kept = kept
            .into_iter()
            .map(|(f, v)| Stmt::store(&l.name(&format!("y{f}")), &field(f), &[t.clone(), l.var("f")], v));
        row.push(over("f", (&parts).into(), kept.collect()));
    }
    vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, row)]
}

fn target(t: &Type, a: &Attrs) -> Result<Type, String> {
    let Some(Attr::Str(name)) = a.get("to") else { return Err("the attribute 'to' is missing".into()) };
    let out = Type::encoded(name, &t.shape);
    require(out.storage().is_some(), "the encoding does not suit the shape")?;
    Ok(out)
}

fn infer_pack(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && t[0].shape.len() >= 2, "expects matrices")?;
    require(t[0].shape.iter().all(|d| d.as_const().is_some()), "expects a constant shape")?;
    let out = target(&t[0], a)?;
    let fits = |p: &Part| p.from.dtype.bits() <= p.bits;
    require(parts(&storage(&t[0]), &storage(&out)).iter().all(fits), "the encodings have other fields")?;
    Ok(vec![out])
}

/// Codes of 8 bits differ by 128 when one is signed and the other not.
fn flips(from: &Field, to: &Field) -> bool {
    &*to.name == "q" && from.dtype != to.dtype && from.dtype.bits() == 8 && to.dtype.is_int()
}

fn storage(t: &Type) -> Encoding {
    t.storage().unwrap_or_else(|| encoding(&t.dtype.to_string(), &t.shape).expect("a dense encoding"))
}

/// A field of the source, and the bits of a field of the target that it becomes.
struct Part<'a> {
    from: &'a Field,
    to: &'a Field,
    offset: i64,
    bits: i64,
}

/// Fields that the target does not have are the high bits of others; what is left of those is zero.
fn parts<'a>(from: &'a Encoding, to: &'a Encoding) -> Vec<Part<'a>> {
    let mut out = vec![];
    for g in &to.fields {
        let Some(f) = from.field(&g.name) else { continue };
        let above = match &*g.name {
            "s" => "t",
            "n" => "o",
            _ => "",
        };
        let high = from.field(above).filter(|_| to.field(above).is_none());
        let low = if high.is_some() { f.dtype.bits() } else { g.dtype.bits() };
        out.push(Part { from: f, to: g, offset: 0, bits: low });
        if let Some(h) = high {
            out.push(Part { from: h, to: g, offset: low, bits: g.dtype.bits() - low });
        }
    }
    out
}

fn pack(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let dims: Vec<Int> = a[0].shape.iter().map(|d| Int::from(*d as i64)).collect();
    let from = match &a[0].encoding {
        Some(e) => (**e).clone(),
        None => encoding(&a[0].dtype.to_string(), &dims).expect("a dense encoding"),
    };
    let to = storage(&t[0]);
    let mut bytes = vec![0u8; to.bits.as_const().expect("constant size") as usize / 8];
    for p in parts(&from, &to) {
        let shape: Vec<i64> =
            Encoding::field_shape(p.to, &dims).iter().map(|d| d.as_const().expect("constant")).collect();
        let resolve = |l: &Layout| l.resolve(&|_| None).expect("constant layout");
        let (lf, lg) = (resolve(&p.from.layout), resolve(&p.to.layout));
        let mut index = vec![0; shape.len()];
        for i in 0..shape.iter().product::<i64>() {
            let mut rest = i;
            for d in (0..shape.len()).rev() {
                index[d] = rest % shape[d];
                rest /= shape[d];
            }
            let mut v = read_bits(&a[0].bytes, lf.address(&index), p.from.dtype.bits()).expect("inside");
            if flips(p.from, p.to) {
                v ^= 0x80;
            }
            write_bits(&mut bytes, lg.address(&index) + p.offset, p.bits, v).expect("inside");
        }
    }
    vec![Tensor { shape: a[0].shape.clone(), dtype: DType::F32, encoding: Some(Arc::new(to)), bytes }]
}

/// A digit of an index: `(index[dim] / div) % size`, with its stride in two layouts.
struct Digit {
    size: i64,
    from: i64,
    to: i64,
}

/// Splits the index space of a field at every boundary of either layout.
fn digits(shape: &[i64], from: &Layout, to: &Layout) -> Vec<Digit> {
    let mut out = vec![];
    for (d, extent) in shape.iter().enumerate() {
        let of = |l: &Layout| l.terms.iter().filter(|t| t.dim == d).cloned().collect::<Vec<Term>>();
        let (tf, tt) = (of(from), of(to));
        let mut cuts = vec![1, *extent];
        for t in tf.iter().chain(&tt) {
            cuts.push(t.div);
            cuts.extend(t.modulo.map(|m| t.div * m));
        }
        cuts.retain(|c| c <= extent);
        cuts.sort_unstable();
        cuts.dedup();
        for w in cuts.windows(2) {
            let stride = |terms: &[Term]| {
                terms
                    .iter()
                    .filter(|t| t.div <= w[0] && t.modulo.is_none_or(|m| w[0] < t.div * m))
                    .map(|t| w[0] / t.div * t.stride.as_const().expect("constant stride"))
                    .sum()
            };
            out.push(Digit { size: w[1] / w[0], from: stride(&tf), to: stride(&tt) });
        }
    }
    out
}

/// Copies each field in the widest units that both layouts keep together (two codes of a byte, four bytes of a lane).
fn lower_pack(l: &Lowering) -> Vec<Stmt> {
    let (from, to) = (storage(&l.ins[0].ty), storage(&l.outs[0].ty));
    let mut out = vec![];
    for p in parts(&from, &to) {
        let (f, g) = (p.from, p.to);
        let shape: Vec<i64> = Encoding::field_shape(g, &l.outs[0].ty.shape)
            .iter()
            .map(|d| d.as_const().expect("constant"))
            .collect();
        let mut loops = digits(&shape, &f.layout, &g.layout);
        let (mut unit, mut wide) = (f.dtype.bits(), p.bits);
        while unit < 64
            && unit == wide
            && let Some(i) = loops.iter().position(|d| d.from == unit && d.to == unit && unit * d.size <= 64)
        {
            unit *= loops[i].size;
            wide = unit;
            loops.remove(i);
        }
        // Outer to inner by the packed stride, so that writes stream.
        loops.sort_by_key(|d| std::cmp::Reverse(d.to));
        let view = |name: &str, bits: i64, base: &Layout, at: i64, stride: &dyn Fn(&Digit) -> i64| {
            let rows: Vec<_> = loops.iter().enumerate().map(|(i, d)| (i, 1, 0, stride(d))).collect();
            let layout = Layout::rows(base.offset.as_const().expect("constant offset") + at, &rows);
            Buffer {
                name: name.into(),
                dtype: DType::uint(bits as u8),
                shape: loops.iter().map(|d| d.size.into()).collect(),
                layout,
                memory: HOST.into(),
                facts: vec![],
            }
        };
        let (src, dst) = (l.name(&format!("from_{}", f.name)), l.name(&format!("to_{}", f.name)));
        let views =
            (view(&src, unit, &f.layout, 0, &|d| d.from), view(&dst, wide, &g.layout, p.offset, &|d| d.to));
        let index: Vec<Expr> = (0..loops.len()).map(|i| l.var(&format!("{}{i}", f.name))).collect();
        let mut value = Expr::load(&src, &index);
        if unit != wide {
            value = value.cast(DType::uint(wide as u8));
        }
        if flips(f, g) {
            let mask = (0..unit).step_by(8).fold(0u64, |m, b| m | 0x80 << b);
            value = value.bin(Binary::Xor, &Expr::int(mask as i64, DType::uint(unit as u8)));
        }
        let mut body = vec![Stmt::store(&l.name(&format!("y{}", f.name)), &dst, &index, value)];
        for (i, d) in loops.iter().enumerate().rev() {
            body = vec![Stmt::for_(&l.name(&format!("{}{i}", f.name)), d.size.into(), Iter::Spatial, body)];
        }
        out.push(Stmt::Alloc(Arc::new(Buffer { memory: l.ins[0].name.clone(), ..views.0 })));
        out.push(Stmt::Alloc(Arc::new(Buffer { memory: l.outs[0].name.clone(), ..views.1 })));
        out.extend(body);
    }
    out
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "encode",
        doc: "x[t, n] as 8-bit codes with a scale for every 32 or 256 columns and sums, in the encoding named by 'to'; approximates",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_encode,
        reference: |a, _, t| vec![encode_a8(&a[0], t[0].encoding.as_deref().expect("an encoding"))],
        lower: lower_encode,
        edge: Edge::none,
        sample: |seed| {
            let kinds = [
                ("a8", 64),
                ("a8k.16", 512),
                ("a8k.32.z128", 256),
                ("a8.z8", 64),
                ("a8k.32", 256),
                ("a8.z0", 64),
                ("a8b.96.z128", 96),
                ("a8b.64", 128),
            ];
            let (to, k) = kinds[seed as usize % kinds.len()];
            (vec![Rng(seed).dense(&[3, k])], attrs(&[("to", Attr::Str(to.into()))]))
        },
    },
    OpRow {
        name: "pack",
        doc: "the same values in the encoding named by 'to'",
        form: Form::COPY,
        gradient: None,
        donates: &[],
        infer: infer_pack,
        reference: pack,
        lower: lower_pack,
        edge: Edge::none,
        sample: |seed| {
            let blocks = formats().map(|(name, columns, _)| (name, columns as usize));
            let names: Vec<_> = blocks.chain([("i8", 4), ("f16", 1), ("f32", 1)]).collect();
            let (name, columns) = names[seed as usize % names.len()];
            let signed = columns > 1 && (seed as usize / names.len()) % 2 == 1;
            let to = Attr::Str(format!("{name}.tile16{}", if signed { "s" } else { "" }).into());
            (vec![Rng(seed).encoded(name, &[32, columns.max(64)])], attrs(&[("to", to)]))
        },
    },
];
