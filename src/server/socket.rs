//! Where the server listens: an address of the net, or a path in the file system, which only its owner may use.

use anyhow::{Context, Result, bail};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use tokio::io::{AsyncRead, AsyncWrite};

/// Where to listen.
pub(crate) struct Address {
    /// A name or an address, or a path, which has a slash.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether others than this machine may come without a key.
    pub(crate) insecure: bool,
}

/// A socket that listens.
pub(super) enum Socket {
    Net(TcpListener),
    #[cfg(unix)]
    Path(path::PathSocket),
}

/// What comes and goes through it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Socket {
    /// Takes the address.
    ///
    /// # Errors
    /// One that is taken, or open to the net without a key.
    pub(super) fn open(address: &Address, has_keys: bool) -> Result<Self> {
        if address.host.contains(std::path::is_separator) {
            #[cfg(unix)]
            return Ok(Self::Path(path::PathSocket::open(address.host.as_ref())?));
            #[cfg(not(unix))]
            bail!("{}: this system has no sockets with a path", address.host);
        }
        let named = || format!("cannot listen on {}:{}", address.host, address.port);
        let candidates = (address.host.as_str(), address.port).to_socket_addrs().with_context(named)?;
        let candidates: Vec<_> = candidates.collect();
        let is_local = candidates.iter().all(|address| address.ip().is_loopback());
        if !is_local && !has_keys && !address.insecure {
            bail!(
                "{} can be reached from other machines: give a key with --api-key, or say --insecure",
                address.host
            );
        }
        let socket = TcpListener::bind(&candidates[..]).with_context(named)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Net(socket))
    }

    /// The address as clients know it; behind a path it is this machine's own.
    ///
    /// # Errors
    /// When the system does not know it.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Net(socket) => socket.local_addr(),
            #[cfg(unix)]
            Self::Path(_) => Ok((std::net::Ipv4Addr::LOCALHOST, 0).into()),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Net(socket) => socket.local_addr().map_or_else(|_| "?".into(), |at| format!("http://{at}")),
            #[cfg(unix)]
            Self::Path(socket) => format!("unix:{}", socket.path().display()),
        }
    }

    /// For the runtime in which this is called.
    pub(super) fn listen(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Net(socket) => Listener::Net(tokio::net::TcpListener::from_std(socket)?),
            #[cfg(unix)]
            Self::Path(socket) => {
                let listener = tokio::net::UnixListener::from_std(socket.listener()?)?;
                Listener::Path { listener, _file: socket }
            }
        })
    }
}

/// A socket that hands out connections.
pub(super) enum Listener {
    Net(tokio::net::TcpListener),
    #[cfg(unix)]
    Path {
        listener: tokio::net::UnixListener,
        _file: path::PathSocket,
    },
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Net(listener) => {
                let (stream, _) = listener.accept().await?;
                // Events are small, and are wanted now.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Self::Path { listener, .. } => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

#[cfg(unix)]
mod path {
    use super::{Context, Result, bail};
    use std::fs::{self, Permissions};
    use std::io;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};

    /// A socket in the file system; its file goes with it.
    pub(in crate::server) struct PathSocket {
        listener: UnixListener,
        path: PathBuf,
        file: u64, // its number, by which it is known from another's that took the place
    }

    impl PathSocket {
        pub(super) fn open(path: &Path) -> Result<Self> {
            let named = || format!("cannot listen on {}", path.display());
            if let Ok(about) = fs::symlink_metadata(path) {
                if !about.file_type().is_socket() || UnixStream::connect(path).is_ok() {
                    bail!("{}: it exists; name another path", named());
                }
                // Nobody listens there any more.
                fs::remove_file(path).with_context(named)?;
            }
            let listener = UnixListener::bind(path).with_context(named)?;
            fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(named)?;
            listener.set_nonblocking(true)?;
            let file = fs::symlink_metadata(path).with_context(named)?.ino();
            Ok(Self { listener, path: path.to_owned(), file })
        }

        pub(super) fn path(&self) -> &Path {
            &self.path
        }

        pub(super) fn listener(&self) -> io::Result<UnixListener> {
            self.listener.try_clone()
        }
    }

    impl Drop for PathSocket {
        fn drop(&mut self) {
            if fs::symlink_metadata(&self.path).is_ok_and(|about| about.ino() == self.file) {
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}
