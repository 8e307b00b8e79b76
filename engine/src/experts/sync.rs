//! What the threads that read experts meet with. `tests/loom` puts its own in this place, and tries every order of events.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
