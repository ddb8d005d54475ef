//! The feed-forward of a layer: two products and a nonlinear function between them, with or without a gate, or a mixture of
//! experts of that kind.

use lathe_ir::graph::{Attr, ValueId};

use super::config::Experts;
use super::nodes::Made;
use super::style::{Activation, FeedForward};
use super::transformer::Transformer;

impl Transformer<'_> {
    pub(super) fn feed_forward(&mut self, x: ValueId, name: &dyn Fn(&str) -> String) -> Made {
        if let Some(e) = self.c.experts {
            let y = self.experts(x, &e, name)?;
            let Some(width) = e.shared else { return Ok(y) };
            let shared = self.shared(x, width, name)?;
            return self.b.op("add", &[y, shared]);
        }
        let (ffn, hidden) = (self.c.ffn, self.c.hidden);
        let y = match self.style.feed_forward {
            FeedForward::Gated => self.gated_parts(x, ["ffn_gate", "ffn_up"], ffn, name)?,
            FeedForward::FusedGate => {
                let both = self.b.linear(x, &name("ffn_up"), 2 * ffn)?;
                let [g, u] = self.slices(both, [ffn, ffn])?;
                self.gated(g, u)?
            }
            FeedForward::Plain => {
                let u = self.b.linear(x, &name("ffn_up"), ffn)?;
                self.activation(u)?
            }
        };
        self.b.linear(y, &name("ffn_down"), hidden)
    }

    fn gated_parts(
        &mut self,
        x: ValueId,
        parts: [&str; 2],
        width: i64,
        name: &dyn Fn(&str) -> String,
    ) -> Made {
        let [g, u] = self.b.linears(x, parts.map(name).each_ref().map(|name| (&**name, width)))?;
        self.gated(g, u)
    }

    fn gated(&mut self, gate: ValueId, up: ValueId) -> Made {
        if self.style.activation == Activation::Silu {
            return self.b.op("swiglu", &[gate, up]);
        }
        let g = self.activation(gate)?;
        self.b.op("mul", &[g, up])
    }

    fn activation(&mut self, x: ValueId) -> Made {
        match self.style.activation {
            Activation::Silu => self.b.op("silu", &[x]),
            Activation::Relu => self.b.op("relu", &[x]),
            Activation::GeluTanh => self.b.op("gelu", &[x]),
            Activation::GeluErf => {
                let attrs = |by, plus| [("by", Attr::Float(by)), ("plus", Attr::Float(plus))];
                let y = self.b.op_with("affine", &[x], &attrs(std::f64::consts::FRAC_1_SQRT_2, 0.0))?;
                let y = self.b.op("erf", &[y])?;
                let y = self.b.op_with("affine", &[y], &attrs(0.5, 0.5))?;
                self.b.op("mul", &[x, y])
            }
        }
    }

    fn experts(&mut self, x: ValueId, e: &Experts, name: &dyn Fn(&str) -> String) -> Made {
        let hidden = self.c.hidden;
        let per = |k: i64| [("k", Attr::Int(k))];
        let scores = self.b.linear(x, &name("ffn_gate_inp"), e.count)?;
        let mut attrs = per(e.used).to_vec();
        attrs.extend(e.shares_of_all.then_some(("all", Attr::Int(1))));
        let [weights, chosen] = self.b.results("route", &[scores], &attrs)?;
        let [offsets, index] = self.b.results("bucket", &[chosen], &[("experts", Attr::Int(e.count))])?;
        // The rows of x are tokens, `used` slots each; those of the inner width are slots.
        let product = |t: &mut Self, x, part, rows, k| {
            let width = t.b.width(x);
            let w = t.b.weight(&name(part), &[e.count, rows, width])?;
            t.b.op_with("expert_matmul", &[x, w, offsets, index], &per(k))
        };
        let g = product(self, x, "ffn_gate_exps.weight", e.width, e.used)?;
        let u = product(self, x, "ffn_up_exps.weight", e.width, e.used)?;
        let y = self.gated(g, u)?;
        let y = product(self, y, "ffn_down_exps.weight", hidden, 1)?;
        self.b.op("combine", &[y, weights])
    }

    /// The expert of every token, times the sigmoid of one product.
    fn shared(&mut self, x: ValueId, width: i64, name: &dyn Fn(&str) -> String) -> Made {
        let hidden = self.c.hidden;
        let y = self.gated_parts(x, ["ffn_gate_shexp", "ffn_up_shexp"], width, name)?;
        let y = self.b.linear(y, &name("ffn_down_shexp"), hidden)?;
        let gate = self.b.weight(&name("ffn_gate_inp_shexp.weight"), &[hidden])?;
        let gate = self.b.op("mul", &[x, gate])?;
        let gate = self.b.op_with("sum", &[gate], &[("axes", Attr::Ints(vec![1]))])?;
        let gate = self.b.op("sigmoid", &[gate])?;
        let gate = self.b.op_with("spread", &[gate, y], &[("axes", Attr::Ints(vec![1]))])?;
        self.b.op("mul", &[y, gate])
    }
}
