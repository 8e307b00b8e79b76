//! Ctrl-C as a flag: while somebody listens, the signal raises it instead of ending the process.
//!
//! There is one flag per process, since there is one keyboard. Whoever computes polls it; a program that does not
//! poll is ended by the third press. Systems without POSIX signals keep their own way: Ctrl-C ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Listens until dropped; then Ctrl-C does again what it did before.
pub struct Listener {
    flag: Arc<AtomicBool>,
    _previous: platform::Previous,
}

/// Starts to listen, with the flag down. Listeners may nest.
pub fn listen() -> Listener {
    let flag = FLAG.get_or_init(Arc::default).clone();
    flag.store(false, Ordering::Relaxed);
    Listener { flag, _previous: platform::install() }
}

impl Listener {
    /// The flag, up once Ctrl-C was pressed.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

#[cfg(unix)]
mod platform {
    use super::FLAG;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENCE: usize = 3; // presses until the process ends at once
    const STATUS: i32 = 130; // as a shell reports SIGINT

    static PRESSES: AtomicUsize = AtomicUsize::new(0);

    /// What SIGINT did before; restores it when dropped.
    pub(super) struct Previous(Option<libc::sigaction>);

    extern "C" fn pressed(_signal: libc::c_int) {
        if let Some(flag) = FLAG.get() {
            flag.store(true, Ordering::Relaxed);
        }
        if PRESSES.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            crate::os::terminal::restore();
            // SAFETY: _exit may be called from a signal handler and does not return.
            unsafe { libc::_exit(STATUS) }
        }
    }

    pub(super) fn install() -> Previous {
        PRESSES.store(0, Ordering::Relaxed);
        // SAFETY: sigaction is a C struct for which all zeros are valid: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = pressed as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        let mut previous = action;
        // SAFETY: both pointers are to live structs; the handler only touches atomics and _exit, which POSIX
        // allows in a signal handler.
        let status = unsafe { libc::sigaction(libc::SIGINT, &action, &mut previous) };
        Previous((status == 0).then_some(previous))
    }

    impl Drop for Previous {
        fn drop(&mut self) {
            if let Some(previous) = &self.0 {
                // SAFETY: `previous` is what the system handed out in `install`.
                unsafe { libc::sigaction(libc::SIGINT, previous, std::ptr::null_mut()) };
            }
        }
    }
}

#[cfg(not(unix))]
mod platform {
    pub(super) struct Previous;

    pub(super) fn install() -> Previous {
        Previous
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_signal_raises_the_flag_and_a_new_listener_lowers_it() {
        let listener = listen();
        assert!(!listener.is_raised());
        // SAFETY: the handler installed above takes the signal.
        unsafe { libc::raise(libc::SIGINT) };
        assert!(listener.is_raised());
        let nested = listen();
        assert!(!nested.is_raised());
        drop(nested);
        // SAFETY: the outer listener is still installed.
        unsafe { libc::raise(libc::SIGINT) };
        assert!(listener.is_raised());
    }
}
