//! The terminal's echo: off while an answer is shown, so that keys typed meanwhile do not stand in its midst. And whether
//! it takes escape sequences, which consoles of Windows have to be asked for.
//!
//! The keys are not lost: they wait for whoever reads next. Where stdin is no terminal nothing happens.

/// Keeps the echo off until dropped.
pub struct Silence {
    _saved: platform::Saved,
}

/// Switches the echo of stdin's terminal off.
pub fn silence() -> Silence {
    Silence { _saved: platform::silence() }
}

/// Whether escape sequences for colours mean something to the terminals behind stdout and stderr, from the first call on.
pub fn takes_escapes() -> bool {
    platform::takes_escapes()
}

#[cfg(any(unix, windows))]
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

    pub(super) fn takes_escapes() -> bool {
        true
    }
}

#[cfg(windows)]
mod platform {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use windows_sys::Win32::System::Console::{
        CONSOLE_MODE, ENABLE_ECHO_INPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING, GetConsoleMode, GetStdHandle,
        STD_ERROR_HANDLE, STD_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleMode,
    };

    static ORIGINAL: OnceLock<CONSOLE_MODE> = OnceLock::new(); // of stdin, as the process found it
    static IS_SILENT: AtomicBool = AtomicBool::new(false);

    /// Restores the echo when dropped.
    pub(super) struct Saved;

    pub(super) fn silence() -> Saved {
        if let Some(mode) = read(STD_INPUT_HANDLE) {
            let original = *ORIGINAL.get_or_init(|| mode);
            IS_SILENT.store(true, Ordering::Relaxed);
            write(STD_INPUT_HANDLE, original & !ENABLE_ECHO_INPUT);
        }
        Saved
    }

    /// Puts the echo back; the handler of Ctrl-C calls it, too.
    pub(in super::super) fn restore() {
        if let Some(&original) = ORIGINAL.get()
            && IS_SILENT.swap(false, Ordering::Relaxed)
        {
            write(STD_INPUT_HANDLE, original);
        }
    }

    impl Drop for Saved {
        fn drop(&mut self) {
            restore();
        }
    }

    pub(super) fn takes_escapes() -> bool {
        static TAKES: OnceLock<bool> = OnceLock::new();
        // What is no console, such as a pipe or a terminal of Cygwin, has no mode to be asked for.
        let asked =
            |stream| read(stream).is_none_or(|mode| write(stream, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING));
        *TAKES.get_or_init(|| [STD_OUTPUT_HANDLE, STD_ERROR_HANDLE].into_iter().all(asked))
    }

    fn read(stream: STD_HANDLE) -> Option<CONSOLE_MODE> {
        let mut mode = 0;
        // SAFETY: the pointer is to a live number; of what is no console the call fails and changes nothing.
        let done = unsafe { GetConsoleMode(GetStdHandle(stream), &mut mode) };
        (done != 0).then_some(mode)
    }

    /// Whether the console takes the mode.
    fn write(stream: STD_HANDLE, mode: CONSOLE_MODE) -> bool {
        // SAFETY: plain calls that take and return numbers and handles.
        unsafe { SetConsoleMode(GetStdHandle(stream), mode) != 0 }
    }
}

#[cfg(not(any(unix, windows)))]
mod platform {
    pub(super) struct Saved;

    pub(super) fn silence() -> Saved {
        Saved
    }

    pub(super) fn takes_escapes() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_no_terminal_is_left_alone() {
        drop((super::silence(), super::silence()));
        assert!(super::takes_escapes() || cfg!(not(unix)));
        assert_eq!(super::takes_escapes(), super::takes_escapes());
    }
}
