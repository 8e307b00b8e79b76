//! The terminal's echo: off while an answer is shown, so that keys typed meanwhile do not stand in its midst.
//!
//! The keys are not lost: they wait for whoever reads next. Where stdin is no POSIX terminal nothing happens.

/// Keeps the echo off until dropped.
pub struct Silence {
    _saved: platform::Saved,
}

/// Switches the echo of stdin's terminal off.
pub fn silence() -> Silence {
    Silence { _saved: platform::silence() }
}

#[cfg(unix)]
pub(super) use platform::restore;

#[cfg(unix)]
mod platform {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    static ORIGINAL: OnceLock<libc::termios> = OnceLock::new(); // the terminal as the process found it
    static IS_SILENT: AtomicBool = AtomicBool::new(false);

    /// Restores the echo when dropped.
    pub(super) struct Saved;

    pub(super) fn silence() -> Saved {
        if let Some(original) = read() {
            let mut quiet = *ORIGINAL.get_or_init(|| original);
            quiet.c_lflag &= !libc::ECHO;
            IS_SILENT.store(true, Ordering::Relaxed);
            write(&quiet);
        }
        Saved
    }

    /// Puts the echo back; may be called from a signal handler.
    pub(in super::super) fn restore() {
        if let Some(original) = ORIGINAL.get()
            && IS_SILENT.swap(false, Ordering::Relaxed)
        {
            write(original);
        }
    }

    impl Drop for Saved {
        fn drop(&mut self) {
            restore();
        }
    }

    fn read() -> Option<libc::termios> {
        // SAFETY: termios is a C struct of numbers, for which all zeros are valid.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live struct; without a terminal the call fails and changes nothing.
        let status = unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut settings) };
        (status == 0).then_some(settings)
    }

    fn write(settings: &libc::termios) {
        // SAFETY: the pointer is to a live struct; POSIX allows the call in signal handlers.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) };
    }
}

#[cfg(not(unix))]
mod platform {
    pub(super) struct Saved;

    pub(super) fn silence() -> Saved {
        Saved
    }
}
