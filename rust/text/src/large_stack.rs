//! A thread with room for deep recursion, whoever calls: hosts have threads with stacks of 512 KiB, and a stack that
//! overflows ends the process.

use std::io;
use std::thread::{Builder, scope};

/// Its stack; committed as it is used. What runs there bounds its depth; what the deepest texts need was measured: less
/// than half of it.
const STACK_BYTES: usize = 128 << 20;

/// Run `f` on a thread called `name`, and wait for it. A panic goes on here.
///
/// # Errors
///
/// There is no memory for the stack, or there are too many threads.
pub(crate) fn on_large_stack<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    scope(|scope| {
        let builder = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, f)?;
        Ok(thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
