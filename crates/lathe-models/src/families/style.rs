//! In what families differ: the choices that a paper's summary lists. A family's file is one [`Style`].

/// A family of transformers.
pub(super) struct Style {
    /// The architecture's name, with which the names of its settings begin.
    pub name: &'static str,
    /// The kind of all its norms.
    pub norm: Norm,
    /// Where norms are.
    pub norms: Norms,
    /// How tokens know their place.
    pub positions: Positions,
    /// Norms of queries and keys before they rotate.
    pub head_norm: Option<HeadNorm>,
    /// One matrix holds queries, keys and values.
    pub fused_heads: bool,
    /// What a feed-forward layer is.
    pub feed_forward: FeedForward,
    /// Its nonlinear function.
    pub activation: Activation,
    /// Experts are weighed by their share of all, not of those chosen.
    pub shares_of_all: bool,
    /// Embeddings are multiplied by the square root of their width.
    pub scaled_embedding: bool,
    /// Where the file has a window, every so many layers one is without; none, if not said.
    pub global_every: Option<i64>,
    /// Base of the rotations in layers with a window, where it is their own.
    pub local_base: Option<f32>,
    /// Layers of the size whose attention is scaled by hidden / heads in place of a head's width.
    pub widest: Option<i64>,
    /// It reads whole texts: tokens see those behind them too, and the result is one embedding a sequence.
    pub encoder: bool,
}

impl Style {
    /// The most common choices: rotary attention and a gated feed-forward, each behind a root-mean-square norm (Touvron et
    /// al. 2023).
    pub(super) const COMMON: Style = Style {
        name: "llama",
        norm: Norm::MeanSquare,
        norms: Norms::Before,
        positions: Positions::Rotary(Pairs::Halves),
        head_norm: None,
        fused_heads: false,
        feed_forward: FeedForward::Gated,
        activation: Activation::Silu,
        shares_of_all: false,
        scaled_embedding: false,
        global_every: None,
        local_base: None,
        widest: None,
        encoder: false,
    };
}

/// A kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    /// Root mean square, weights.
    MeanSquare,
    /// Mean and variance, weights and biases.
    Layer,
}

/// Where the norms of a block are, as the names of its attention's and its feed-forward's tell: of what goes into each, of
/// what comes out of it, and of the sum with what went around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norms {
    /// In front.
    Before,
    /// Behind, before the sum.
    After,
    /// In front, and behind before the sum.
    Around,
    /// Of the sum.
    OfSum,
}

impl Norms {
    /// Names of the norms in front of attention and feed-forward.
    pub(super) fn before(self) -> Option<[&'static str; 2]> {
        matches!(self, Norms::Before | Norms::Around).then_some(["attn_norm", "ffn_norm"])
    }

    /// Of those behind.
    pub(super) fn after(self) -> Option<[&'static str; 2]> {
        matches!(self, Norms::After | Norms::Around).then_some(["post_attention_norm", "post_ffw_norm"])
    }

    /// Of those of the sums.
    pub(super) fn of_sum(self) -> Option<[&'static str; 2]> {
        (self == Norms::OfSum).then_some(["attn_output_norm", "layer_output_norm"])
    }
}

/// How tokens know their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// Queries and keys rotate (Su et al. 2021).
    Rotary(Pairs),
    /// Rows of a table are added to the embeddings; position 0 has the row of this number.
    Learned(i64),
}

/// Elements of a head that rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// `2i` and `2i + 1`.
    Neighbours,
    /// `i` and `i` of the second half.
    Halves,
}

/// Over what queries and keys are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadNorm {
    /// Each head on its own.
    Each,
    /// All heads together.
    All,
}

/// What a feed-forward layer is. Where the file has experts, each is a gated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeedForward {
    /// `down(activation(gate(x)) * up(x))` (Shazeer 2020).
    Gated,
    /// The same, with the gate as the first half of `up`.
    FusedGate,
    /// `down(activation(up(x)))`.
    Plain,
}

/// A nonlinear function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The Gaussian error linear unit, by its approximation with tanh.
    GeluTanh,
    /// The same, exactly.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
}
