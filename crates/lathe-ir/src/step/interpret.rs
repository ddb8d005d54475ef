//! The interpreter of step programs: one thread, kernels by the tensor interpreter, storage as bytes.

use super::{Program, Step};
use crate::tensor::{self, Kernel, Memory};
use crate::{IrError, Name};
use std::collections::HashMap;

/// Runs a program over the storage of its buffers (created when missing), with its dimensions bound.
pub fn interpret(
    p: &Program,
    kernels: &HashMap<Name, Kernel>,
    dims: &HashMap<Name, i64>,
    storage: &mut HashMap<Name, Vec<u8>>,
) -> Result<(), IrError> {
    let get = |n: &str| dims.get(n).copied();
    for b in &p.buffers {
        let Some(n) = b.bytes.eval(&get) else {
            return Err(IrError::run(format!("{}/{}", p.name, b.name), "its size has an unbound dimension"));
        };
        storage.entry(b.name.clone()).or_insert_with(|| vec![0; n.max(0) as usize]);
    }
    for s in &p.steps {
        match s {
            Step::Meet => {}
            Step::Copy { from, to } => {
                let (from, to) = (&p.buffers[*from as usize].name, &p.buffers[*to as usize].name);
                let bytes = storage[from].clone();
                storage.insert(to.clone(), bytes);
            }
            Step::Call { kernel, args, .. } => {
                let k =
                    kernels.get(kernel).ok_or_else(|| IrError::run(&**kernel, "there is no such kernel"))?;
                let mut m = Memory { dims: dims.clone(), params: HashMap::new() };
                for (param, a) in k.params.iter().zip(args) {
                    m.params.insert(param.name.clone(), storage[&p.buffers[*a as usize].name].clone());
                }
                tensor::interpret(k, &mut m)?;
                for (param, a) in k.params.iter().zip(args) {
                    if param.access != tensor::Access::In
                        && let Some(bytes) = m.params.remove(&param.name)
                    {
                        storage.insert(p.buffers[*a as usize].name.clone(), bytes);
                    }
                }
            }
        }
    }
    Ok(())
}
