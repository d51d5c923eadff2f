//! How fast is a kernel, as a share of what the machine can do? For `examples/`, which `bench/kernels.py` runs; not part of
//! the library. One file per measurement.

mod attention;
mod linear;
mod peak;
mod read_bandwidth;
mod sampling;

pub use attention::{Attention, Shape};
pub use linear::{Linear, Pass};
pub use peak::{float_peak, int8_peak};
pub use read_bandwidth::read_bandwidth;
pub use sampling::Sampling;
