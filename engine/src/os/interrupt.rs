//! Ctrl-C as a flag: while somebody listens, the signal raises it instead of ending the process. Who has to clear up
//! before an end listens to all signals that ask for one.
//!
//! There is one flag per process, since there is one keyboard. Whoever computes polls it; a program that does not
//! poll is ended by the third press. Systems without POSIX signals keep their own way: Ctrl-C ends the process.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static STATUS: AtomicU8 = AtomicU8::new(130); // as a shell reports SIGINT

/// Listens until dropped; then the signals do again what they did before.
pub struct Listener {
    flag: Arc<AtomicBool>,
    _previous: platform::Previous,
}

/// Starts to listen for Ctrl-C, with the flag down. Listeners may nest.
pub fn listen() -> Listener {
    start(platform::CTRL_C)
}

/// [`listen`], also for the other signals that ask a process to end: SIGTERM, and SIGHUP of a terminal that closes,
/// which is ignored where it was (`nohup`).
pub fn listen_to_all() -> Listener {
    start(platform::ALL)
}

fn start(signals: &[platform::Signal]) -> Listener {
    let flag = FLAG.get_or_init(Arc::default).clone();
    flag.store(false, Ordering::Relaxed);
    Listener { flag, _previous: platform::install(signals) }
}

/// The exit status of a process that the last signal has stopped, as a shell reports it.
pub fn status() -> u8 {
    STATUS.load(Ordering::Relaxed)
}

impl Listener {
    /// The flag, up once a signal came.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    /// Whether a signal came.
    pub fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

#[cfg(unix)]
mod platform {
    use super::{FLAG, STATUS};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENCE: usize = 3; // presses until the process ends at once

    static PRESSES: AtomicUsize = AtomicUsize::new(0);

    pub(super) type Signal = libc::c_int;
    pub(super) const CTRL_C: &[Signal] = &[libc::SIGINT];
    pub(super) const ALL: &[Signal] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

    /// What signals did before; restores it when dropped.
    pub(super) struct Previous(Vec<(Signal, libc::sigaction)>);

    extern "C" fn came(signal: Signal) {
        STATUS.store(128 + signal as u8, Ordering::Relaxed);
        if let Some(flag) = FLAG.get() {
            flag.store(true, Ordering::Relaxed);
        }
        if PRESSES.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            crate::os::terminal::restore();
            // SAFETY: _exit may be called from a signal handler and does not return.
            unsafe { libc::_exit(128 + signal) }
        }
    }

    pub(super) fn install(signals: &[Signal]) -> Previous {
        PRESSES.store(0, Ordering::Relaxed);
        Previous(signals.iter().filter_map(|&signal| Some((signal, handle(signal)?))).collect())
    }

    /// Handles a signal; what it did before, `None` where that stays.
    fn handle(signal: Signal) -> Option<libc::sigaction> {
        // SAFETY: sigaction is a C struct for which all zeros are valid: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = came as extern "C" fn(Signal) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        let mut previous = action;
        // SAFETY: both pointers are to live structs; the handler only touches atomics and _exit, which POSIX
        // allows in a signal handler.
        let status = unsafe { libc::sigaction(signal, &action, &mut previous) };
        if signal == libc::SIGHUP && previous.sa_sigaction == libc::SIG_IGN {
            restore(signal, &previous);
            return None;
        }
        (status == 0).then_some(previous)
    }

    fn restore(signal: Signal, previous: &libc::sigaction) {
        // SAFETY: `previous` is what the system handed out for this signal.
        unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
    }

    impl Drop for Previous {
        fn drop(&mut self) {
            self.0.iter().for_each(|(signal, previous)| restore(*signal, previous));
        }
    }
}

#[cfg(not(unix))]
mod platform {
    pub(super) type Signal = ();
    pub(super) const CTRL_C: &[Signal] = &[];
    pub(super) const ALL: &[Signal] = &[];

    pub(super) struct Previous;

    pub(super) fn install(_signals: &[Signal]) -> Previous {
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
        // SAFETY: a plain system call; whoever runs the tests may ignore the signal.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
        for (signal, expected) in [(libc::SIGTERM, 143), (libc::SIGHUP, 129), (libc::SIGINT, 130)] {
            let all = listen_to_all();
            assert!(!all.is_raised());
            // SAFETY: the listener takes this signal.
            unsafe { libc::raise(signal) };
            assert!(all.is_raised() && status() == expected, "{signal}");
        }
    }
}
