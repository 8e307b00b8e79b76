//! What happens when a mapped file shrinks or its disk fails: one line that names the file, and the end.
//!
//! Touching a page that the system cannot bring raises SIGBUS, or an exception on Windows, where a mapped file cannot
//! shrink, but a disk or a share can fail. It happens in the middle of any loop: nothing can go on from there. A program
//! says once that it wants this; a library must not take a signal by itself. Mappings are known to the handler by address.

use std::ops::Range;
use std::path::Path;
use watched::Entry;

/// From now on a fault in a mapped file ends the process with a line on stderr and [`STATUS`].
pub fn explain() {
    platform::install();
}

/// The exit status, as a shell reports SIGBUS.
pub const STATUS: i32 = 135;

/// Makes a mapping known by its file's name until dropped.
pub(super) struct Watched {
    _entry: Entry,
}

impl Watched {
    /// Watches the addresses `range`, where the bytes of `path` are.
    pub(super) fn new(range: Range<*const u8>, path: &Path) -> Self {
        Self { _entry: Entry::new(range.start as usize..range.end as usize, path) }
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

/// What to say behind the name of the file.
#[cfg(any(unix, windows))]
const REASON: &[u8] =
    b": became shorter while it was in use, or its disk failed; put the whole file back and start again\n";

/// Which addresses are which file's, for a handler that may not lock.
mod watched {
    use std::ops::Range;
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    /// All nodes ever made, newest first. A handler can walk it at any time: nodes are never freed, and names never change,
    /// as a free node is used again for a file of the same name only.
    static NODES: AtomicPtr<Node> = AtomicPtr::new(null_mut());
    /// Held by whoever changes nodes; never by the handler.
    static CHANGING: Mutex<()> = Mutex::new(());

    struct Node {
        start: AtomicUsize,
        end: AtomicUsize, // 0 while the node is free
        name: Box<[u8]>,
        next: Option<&'static Node>,
    }

    /// One mapping's node; frees it when dropped.
    pub(super) struct Entry(&'static Node);

    impl Entry {
        pub(super) fn new(range: Range<usize>, path: &Path) -> Self {
            let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
            let name = path.as_os_str().as_encoded_bytes();
            let free = nodes().find(|node| node.end.load(Ordering::Acquire) == 0 && *node.name == *name);
            let node = free.unwrap_or_else(|| {
                let (start, end) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let node = Box::leak(Box::new(Node { start, end, name: name.into(), next: nodes().next() }));
                NODES.store(node, Ordering::Release);
                node
            });
            node.start.store(range.start, Ordering::Release);
            node.end.store(range.end, Ordering::Release);
            Self(node)
        }
    }

    impl Drop for Entry {
        fn drop(&mut self) {
            self.0.end.store(0, Ordering::Release);
        }
    }

    fn nodes() -> impl Iterator<Item = &'static Node> {
        // SAFETY: the pointer is null or to a node that was leaked before it was stored, and the load sees what it holds.
        let first = unsafe { NODES.load(Ordering::Acquire).as_ref() };
        std::iter::successors(first, |node| node.next)
    }

    /// The name of the file mapped at an address.
    #[cfg(any(unix, windows, test))]
    pub(super) fn name_at(address: usize) -> Option<&'static [u8]> {
        let holds = |node: &&Node| {
            let end = node.end.load(Ordering::Acquire);
            let start = node.start.load(Ordering::Acquire);
            // The start of another mapping comes after the end was taken away, which is then seen.
            (start..end).contains(&address) && node.end.load(Ordering::Relaxed) == end
        };
        nodes().find(holds).map(|node| &*node.name)
    }
}

#[cfg(unix)]
mod platform {
    use super::watched::name_at;
    use super::{REASON, STATUS};
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The signals of a page that cannot be brought, and what they did before. macOS raises the second for some volumes.
    static SIGNALS: [(libc::c_int, OnceLock<libc::sigaction>); SIGNAL_COUNT] = [
        (libc::SIGBUS, OnceLock::new()),
        #[cfg(target_os = "macos")]
        (libc::SIGSEGV, OnceLock::new()),
    ];
    const SIGNAL_COUNT: usize = if cfg!(target_os = "macos") { 2 } else { 1 };

    extern "C" fn faulted(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        static ENDING: AtomicBool = AtomicBool::new(false);
        // SAFETY: the system hands a valid siginfo to handlers with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        let Some(name) = name_at(address) else {
            // Not ours: what was done before follows when the instruction runs again.
            restore(signal);
            return;
        };
        if ENDING.swap(true, Ordering::AcqRel) {
            // Another thread is saying it.
            loop {
                // SAFETY: pause is async-signal-safe.
                unsafe { libc::pause() };
            }
        }
        crate::os::terminal::restore();
        for part in [b"error: ".as_slice(), name, REASON] {
            // SAFETY: write is async-signal-safe and the bytes are alive.
            unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
        }
        // SAFETY: _exit may be called from a signal handler and does not return.
        unsafe { libc::_exit(STATUS) }
    }

    /// What std installs tells of a stack that overflowed, which macOS reports by the same signals.
    fn restore(signal: libc::c_int) {
        let previous =
            SIGNALS.iter().find(|(known, _)| *known == signal).and_then(|(_, previous)| previous.get());
        // SAFETY: both are async-signal-safe, and `previous` is what the system handed out for this signal.
        unsafe {
            match previous {
                Some(previous) => _ = libc::sigaction(signal, previous, null_mut()),
                None => _ = libc::signal(signal, libc::SIG_DFL),
            }
        }
    }

    pub(super) fn install() {
        // SAFETY: sigaction is a C struct for which all zeros are valid: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = faulted;
        action.sa_sigaction = handler as libc::sighandler_t;
        // On the stack that std keeps for handlers: a signal may say that the thread's own is full.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for (signal, previous) in &SIGNALS {
            let mut before = action;
            // SAFETY: the pointers are to live structs; the handler touches atomics and async-signal-safe calls only.
            if unsafe { libc::sigaction(*signal, &action, &mut before) } == 0 {
                previous.get_or_init(|| before);
            }
        }
    }
}

#[cfg(windows)]
mod platform {
    use super::watched::name_at;
    use super::{REASON, STATUS};
    use std::io::Write;
    use std::sync::Once;
    use windows_sys::Win32::Foundation::EXCEPTION_IN_PAGE_ERROR;
    use windows_sys::Win32::System::Diagnostics::Debug::{
        AddVectoredExceptionHandler, EXCEPTION_CONTINUE_SEARCH, EXCEPTION_POINTERS,
    };
    use windows_sys::Win32::System::Threading::{GetCurrentProcess, TerminateProcess};

    unsafe extern "system" fn faulted(exception: *mut EXCEPTION_POINTERS) -> i32 {
        // SAFETY: the system hands a valid record to its handlers.
        let record = unsafe { &*(*exception).ExceptionRecord };
        let is_ours = record.ExceptionCode == EXCEPTION_IN_PAGE_ERROR;
        let address = record.ExceptionInformation[1]; // that was touched
        let Some(name) = is_ours.then_some(address).and_then(name_at) else {
            return EXCEPTION_CONTINUE_SEARCH;
        };
        crate::os::terminal::restore();
        // Runs on the thread that touched the page, in the midst of a loop over a file's bytes: where no lock of stderr is
        // held and whatever it needs may be called.
        let line = [b"error: ", name, REASON].concat();
        let _ = std::io::stderr().write_all(String::from_utf8_lossy(&line).as_bytes());
        // SAFETY: ends the process at once; nothing is passed but a handle that needs no closing and a number.
        unsafe { TerminateProcess(GetCurrentProcess(), STATUS as u32) };
        EXCEPTION_CONTINUE_SEARCH
    }

    pub(super) fn install() {
        static HANDLER: Once = Once::new();
        // SAFETY: the handler is a function for the whole life of the process. Without it the system ends the process as
        // it would anyway.
        HANDLER.call_once(|| _ = unsafe { AddVectoredExceptionHandler(1, Some(faulted)) });
    }
}

#[cfg(not(any(unix, windows)))]
mod platform {
    pub(super) fn install() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_name_of_their_file_while_it_is_mapped() {
        let bytes = [[0u8; 64]; 3];
        let name = |i: usize| watched::name_at(bytes[i].as_ptr() as usize + 63);
        let watch = |i: usize, name: &str| Watched::new(bytes[i].as_ptr_range(), Path::new(name));
        let (first, second) = (watch(0, "first"), watch(1, "second"));
        assert_eq!([name(0), name(1), name(2)], [Some(&b"first"[..]), Some(b"second"), None]);
        drop(first);
        assert_eq!([name(0), name(1)], [None, Some(&b"second"[..])]);
        let third = watch(2, "third");
        assert_eq!([name(0), name(1), name(2)], [None, Some(&b"second"[..]), Some(b"third")]);
        drop((second, third));
        assert_eq!([name(1), name(2)], [None, None]);
    }
}
