//! How fast is a kernel, as a share of what the machine can do? For `examples/`, which `bench/kernels.py` runs; not part of
//! the library. One file per measurement.

mod attention;
mod limits;
mod linear;
mod peak;
mod read_bandwidth;
mod sampling;

pub use attention::{Attention, Shape};
pub use limits::Limits;
pub use linear::{Layout, Linear, Pass};
use peak::{float_peak, int8_peak};
use read_bandwidth::read_bandwidth;
pub use sampling::Sampling;
