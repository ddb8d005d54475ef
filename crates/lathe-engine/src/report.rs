//! What a compiled model says about itself: how long its making took, what it holds, and what a step must do at least.

/// A stage of loading a model, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Kernels are written and built.
    Compile,
    /// Weights are brought into the kernels' layout.
    Pack,
    /// The same, onto a disk.
    Store,
    /// Weights that stay in memory are read from there.
    Read,
    /// Steps of several sizes are timed.
    Measure,
}

impl Stage {
    /// What is being done, for a person.
    pub fn describe(self) -> &'static str {
        match self {
            Stage::Compile => "compiling kernels",
            Stage::Pack => "packing weights",
            Stage::Store => "packing weights onto the disk",
            Stage::Read => "reading weights",
            Stage::Measure => "measuring steps",
        }
    }
}

/// How long loading took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadTiming {
    /// Seconds to read and pack the weights.
    pub load_s: f64,
    /// Seconds to make the kernels, or to find them in the cache.
    pub compile_s: f64,
}

/// The memory of a loaded model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Packed weights, bytes, with the window through which others come and the room for experts that stay.
    pub weights_bytes: u64,
    /// Weights that come from a disk, or from a device's host, in each step, bytes.
    pub streamed_bytes: u64,
    /// Those of them that are read from a disk, bytes: all but what has room in the memory of a device's host.
    pub disk_bytes: u64,
    /// Experts on a disk, of which those that steps need come, bytes.
    pub experts_bytes: u64,
    /// Keys and values, bytes.
    pub cache_bytes: u64,
    /// Keys and values on a disk, bytes.
    pub spilled_bytes: u64,
    /// Activations and workspaces, bytes.
    pub activation_bytes: u64,
}

impl Footprint {
    /// Bytes of memory that are held or may be.
    pub fn held_bytes(&self) -> u64 {
        self.weights_bytes + self.cache_bytes + self.activation_bytes
    }
}

/// What a step must read and compute at least, whatever the kernels: the numbers behind a floor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Bytes of weights that a step reads, experts apart.
    pub weight_bytes_per_step: u64,
    /// Bytes of all experts.
    pub expert_bytes: u64,
    /// Experts of a layer that a token is sent to, as a share of all.
    pub experts_used: f64,
    /// Bytes of keys and values of one position.
    pub kv_bytes_per_position: u64,
    /// 8-bit operations of a token, without its logits and what they alone need; a multiply and an add are two.
    pub int8_ops_per_token: u64,
    /// f32 operations of a token, without attention, logits and what they alone need.
    pub f32_ops_per_token: u64,
    /// 8-bit operations of one token's logits, with those of the last layer that nothing else needs.
    pub int8_ops_per_logits: u64,
    /// f32 operations of one token's logits, with those of the last layer that nothing else needs.
    pub f32_ops_per_logits: u64,
    /// f32 operations of attention between a token and one position.
    pub attention_ops_per_pair: u64,
}

impl Costs {
    /// f32 operations of attention in a prompt of `context` tokens, each of which sees itself and those before it.
    pub fn attention_ops(&self, context: usize) -> f64 {
        let pairs = context as f64 * (context as f64 + 1.0) / 2.0;
        self.attention_ops_per_pair as f64 * pairs
    }

    /// The least seconds for a prompt of `tokens`, with logits for its last token only, at these peaks (operations a second).
    pub fn prefill_floor_s(&self, tokens: usize, int8_peak: f64, f32_peak: f64) -> f64 {
        let int8 = self.int8_ops_per_token as f64 * tokens as f64 + self.int8_ops_per_logits as f64;
        let f32 = self.f32_ops_per_token as f64 * tokens as f64 + self.f32_ops_per_logits as f64;
        int8 / int8_peak + (f32 + self.attention_ops(tokens)) / f32_peak
    }

    /// The least seconds for one step of a token for each of `sequences`, which have `depth` positions on average, at this
    /// bandwidth (bytes a second).
    pub fn decode_floor_s(&self, sequences: usize, depth: f64, bandwidth: f64) -> f64 {
        let kv = self.kv_bytes_per_position as f64 * depth * sequences as f64;
        // Tokens that are sent anywhere meet in some experts.
        let met = 1.0 - (1.0 - self.experts_used).powi(sequences as i32);
        (self.weight_bytes_per_step as f64 + self.expert_bytes as f64 * met + kv) / bandwidth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_by_hand() {
        let costs = Costs {
            weight_bytes_per_step: 600,
            expert_bytes: 3200,
            experts_used: 0.5,
            kv_bytes_per_position: 10,
            int8_ops_per_token: 100,
            f32_ops_per_token: 5,
            int8_ops_per_logits: 50,
            f32_ops_per_logits: 1,
            attention_ops_per_pair: 2,
        };
        assert_eq!(costs.attention_ops(4), 20.0);
        assert_eq!(costs.prefill_floor_s(4, 10.0, 1.0), 45.0 + 41.0);
        assert_eq!(costs.decode_floor_s(3, 20.0, 100.0), 40.0);
        assert_eq!(costs.decode_floor_s(1, 0.0, 100.0), 22.0);
    }
}
