//! Ctrl-C as a flag: while somebody listens, the signal raises it instead of ending the process. Who has to clear up
//! before an end listens to all signals that ask for one.
//!
//! There is one flag per process, since there is one keyboard. Whoever computes polls it; a program that does not
//! poll is ended by the third press. On Windows the events of a console are the signals: Ctrl-C and Ctrl-Break, and those of
//! a window that closes, a person who logs off and a machine that shuts down. Other systems keep their own way.

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
/// which is ignored where it was (`nohup`). Windows leaves five seconds to clear up then.
pub fn listen_to_all() -> Listener {
    start(platform::ALL)
}

fn start(signals: &'static [platform::Signal]) -> Listener {
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

#[cfg(windows)]
mod platform {
    use super::{FLAG, STATUS};
    use std::sync::Once;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;
    use windows_sys::Win32::Foundation::{FALSE, TRUE};
    use windows_sys::Win32::System::Console::{
        CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT,
        SetConsoleCtrlHandler,
    };
    use windows_sys::Win32::System::Threading::{GetCurrentProcess, TerminateProcess};
    use windows_sys::core::BOOL;

    const PATIENCE: usize = 3; // presses until the process ends at once
    /// Windows ends a process about so long after it was told that its console closes, whatever its handler does.
    const CLEARING_UP: Duration = Duration::from_secs(5);

    static PRESSES: AtomicUsize = AtomicUsize::new(0);
    static TO_KEYS: AtomicUsize = AtomicUsize::new(0);
    static TO_ENDS: AtomicUsize = AtomicUsize::new(0);

    /// A kind of event, by the number of its listeners.
    pub(super) type Signal = &'static AtomicUsize;
    pub(super) const CTRL_C: &[Signal] = &[&TO_KEYS];
    pub(super) const ALL: &[Signal] = &[&TO_KEYS, &TO_ENDS];

    /// Listens until dropped.
    pub(super) struct Previous(&'static [Signal]);

    /// Whether an event is taken, so that the system does not end the process. The system calls this on a thread of its
    /// own.
    pub(super) unsafe extern "system" fn came(event: u32) -> BOOL {
        let (listeners, status) = match event {
            CTRL_C_EVENT | CTRL_BREAK_EVENT => (&TO_KEYS, 130),
            CTRL_CLOSE_EVENT => (&TO_ENDS, 129), // as a shell reports SIGHUP
            CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT => (&TO_ENDS, 143), // and SIGTERM
            _ => return FALSE,
        };
        if listeners.load(Ordering::Relaxed) == 0 {
            return FALSE;
        }
        STATUS.store(status, Ordering::Relaxed);
        if let Some(flag) = FLAG.get() {
            flag.store(true, Ordering::Relaxed);
        }
        if status != 130 {
            // The process is ended once this returns, and is to end by itself before.
            thread::sleep(CLEARING_UP);
        } else if PRESSES.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            crate::os::terminal::restore();
            // SAFETY: ends the process at once; nothing is passed but a handle that needs no closing and a number.
            unsafe { TerminateProcess(GetCurrentProcess(), status.into()) };
        }
        TRUE
    }

    pub(super) fn install(signals: &'static [Signal]) -> Previous {
        static HANDLER: Once = Once::new();
        PRESSES.store(0, Ordering::Relaxed);
        // SAFETY: the handler is a function for the whole life of the process, and touches atomics alone. Without a console
        // there are no events, whether or not the call succeeds.
        HANDLER.call_once(|| _ = unsafe { SetConsoleCtrlHandler(Some(came), TRUE) });
        signals.iter().for_each(|listeners| _ = listeners.fetch_add(1, Ordering::Relaxed));
        Previous(signals)
    }

    impl Drop for Previous {
        fn drop(&mut self) {
            self.0.iter().for_each(|listeners| _ = listeners.fetch_sub(1, Ordering::Relaxed));
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::{listen, listen_to_all, status};
        use super::*;

        fn comes(event: u32) -> bool {
            // SAFETY: the handler may run on any thread.
            unsafe { came(event) == TRUE }
        }

        #[test]
        fn events_raise_the_flag_of_those_who_listen_to_them() {
            assert!(!comes(CTRL_C_EVENT) && !comes(CTRL_CLOSE_EVENT) && !comes(77));
            let listener = listen();
            assert!(!listener.is_raised() && !comes(CTRL_CLOSE_EVENT) && !listener.is_raised());
            assert!(comes(CTRL_C_EVENT) && listener.is_raised());
            let nested = listen();
            assert!(!nested.is_raised());
            drop(nested);
            assert!(comes(CTRL_BREAK_EVENT) && listener.is_raised() && status() == 130);
            for (event, expected) in
                [(CTRL_CLOSE_EVENT, 129), (CTRL_LOGOFF_EVENT, 143), (CTRL_SHUTDOWN_EVENT, 143)]
            {
                let all = listen_to_all();
                assert!(!all.is_raised());
                // It waits for the process to end, which it does with the tests.
                thread::spawn(move || comes(event));
                while !all.is_raised() {
                    thread::yield_now();
                }
                assert_eq!(status(), expected);
            }
            drop(listener);
            assert!(!comes(CTRL_C_EVENT));
        }
    }
}

#[cfg(not(any(unix, windows)))]
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
