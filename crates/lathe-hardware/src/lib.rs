//! HLS projects: a kernel in HLS C++ with a testbench, and its simulation by a C++ compiler with the vendor's headers.
//!
//! - [`Project`] is the text of both files; it is made without any I/O;
//! - [`Simulation`] compiles a project and runs it on the arguments of the interpreter, which must agree in every bit;
//! - [`headers`] fetches the headers (`ap_fixed.h`, `hls_stream.h`) once, in the Python package that ships them.
//!
//! ```
//! let k = lathe_ir::tensor::parse("kernel half() {
//!   in x: fx4p4[8]
//!   out y: fx4p4[8]
//!   for i in 8 spatial serial {
//!     S: y[i] = x[i] * 0.5fx4p4
//!   }
//! }").unwrap();
//! let p = lathe_hardware::Project::new(&k).unwrap();
//! assert!(p.kernel().contains("void half(const ap_fixed<8, 4> x[8], ap_fixed<8, 4> y[8])"));
//! ```

mod error;
mod headers;
mod project;
mod simulate;

pub use error::HardwareError;
pub use headers::headers;
pub use project::Project;
pub use simulate::Simulation;
