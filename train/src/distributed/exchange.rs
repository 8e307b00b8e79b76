//! How rank 0 hands the others the few bytes by which NCCL finds its ranks: through a shared file or over TCP.
//!
//! The file is for launchers that name no address. The bytes are no secret, but whoever has them can join: use a
//! network you trust.

use super::Launch;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: &str = "MOEWE_NCCL_ID_FILE";
const GREETING: &[u8; 8] = b"moewe-id";
const PATIENCE: Duration = Duration::from_secs(300); // cluster nodes do not start at the same moment
const PAUSE: Duration = Duration::from_millis(100);

/// Where the ranks meet.
#[derive(Debug, PartialEq)]
pub(super) enum Meeting {
    /// A file that all ranks see, new for every start.
    File(PathBuf),
    /// Rank 0 listens here.
    Address(String, u16),
}

impl Meeting {
    /// From the variables `MOEWE_NCCL_ID_FILE`, else `MASTER_ADDR` and `MASTER_PORT`; the port is the one above
    /// that, because torchrun itself listens there.
    pub(super) fn detect(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some(path) = lookup(FILE) {
            return Ok(Self::File(path.into()));
        }
        let (Some(address), Some(port)) = (lookup("MASTER_ADDR"), lookup("MASTER_PORT")) else {
            return Err(Error::request(format!(
                "GPU ranks have to meet: set MASTER_ADDR and MASTER_PORT (as torchrun does), or {FILE} to a file that \
                 all ranks see and that does not exist yet"
            )));
        };
        let next = port.parse::<u16>().ok().and_then(|port| port.checked_add(1));
        let wrong = || Error::request(format!("MASTER_PORT: expected a port below 65535, found {port:?}"));
        Ok(Self::Address(address, next.ok_or_else(wrong)?))
    }

    /// Gives every rank the bytes of rank 0; the others hand in as many bytes to be overwritten.
    pub(super) fn exchange(&self, launch: &Launch, bytes: &mut [u8]) -> Result<()> {
        match (self, launch.rank) {
            (Self::File(path), 0) => write_file(path, bytes),
            (Self::File(path), _) => read_file(path, bytes),
            (Self::Address(_, port), 0) => serve(&listen(*port)?, launch.size, bytes),
            (Self::Address(address, port), rank) => ask((address, *port), rank, bytes),
        }
    }

    /// To be called by rank 0 once all have joined: a file that stays would mislead the next start.
    pub(super) fn close(&self) {
        if let Self::File(path) = self {
            // The next start refuses a file that is still there, so nothing is lost if this fails.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        let found = "one, of an earlier start; remove it or name another";
        return Err(Error::malformed(path, FILE, "no file yet", found));
    }
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes).map_err(|e| Error::io(&partial, "write", e))?;
    std::fs::rename(&partial, path).map_err(|e| Error::io(path, "rename", e))
}

fn read_file(path: &Path, bytes: &mut [u8]) -> Result<()> {
    patiently(&path.display().to_string(), || match std::fs::read(path) {
        Ok(found) if found.len() == bytes.len() => {
            bytes.copy_from_slice(&found);
            Ok(())
        }
        Ok(found) => Err(std::io::Error::other(format!("{} bytes instead of {}", found.len(), bytes.len()))),
        Err(error) => Err(error),
    })
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).map_err(|e| Error::io(format!("port {port}"), "listen", e))
}

/// Answers until every other rank has been there; whoever does not greet as a rank gets nothing.
fn serve(listener: &TcpListener, size: usize, bytes: &[u8]) -> Result<()> {
    let mut missing: BTreeSet<u64> = (1..size as u64).collect();
    let end = Instant::now() + PATIENCE;
    listener.set_nonblocking(true).map_err(|e| Error::io("port", "listen", e))?;
    while !missing.is_empty() {
        match listener.accept() {
            Ok((stream, _)) => drop(answer(stream, bytes).map(|rank| missing.remove(&rank))),
            Err(_) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(_) => {
                return Err(Error::request(format!("ranks {missing:?} did not come within {PATIENCE:?}")));
            }
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<u64> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut greeting, mut rank) = ([0; 8], [0; 8]);
    stream.read_exact(&mut greeting)?;
    stream.read_exact(&mut rank)?;
    if greeting != *GREETING {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    stream.write_all(bytes)?;
    Ok(u64::from_le_bytes(rank))
}

fn ask(address: (&str, u16), rank: usize, bytes: &mut [u8]) -> Result<()> {
    patiently(&format!("{}:{}", address.0, address.1), || {
        let place = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&place, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&[&GREETING[..], &(rank as u64).to_le_bytes()].concat())?;
        stream.read_exact(bytes)
    })
}

/// Tries until it works or patience ends.
fn patiently(place: &str, mut attempt: impl FnMut() -> std::io::Result<()>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(error) => return Err(Error::io(place, "meet rank 0", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Meeting> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| text.to_string());
        Meeting::detect(&find)
    }

    #[test]
    fn the_environment_names_the_meeting() {
        let tcp = [("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];
        assert_eq!(detect(&tcp).unwrap(), Meeting::Address("node1".into(), 29501));
        assert_eq!(detect(&[tcp[0], tcp[1], (FILE, "/x/id")]).unwrap(), Meeting::File("/x/id".into()));
        assert!(detect(&[]).unwrap_err().to_string().contains(FILE));
        assert!(detect(&[tcp[0], ("MASTER_PORT", "65535")]).is_err());
    }

    fn rank(rank: usize) -> Launch {
        Launch { rank, size: 3, ..Launch::alone() }
    }

    #[test]
    fn ranks_meet_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let meeting = Meeting::File(folder.path().join("id"));
        std::thread::scope(|scope| {
            let readers = [1, 2].map(|number| {
                let meeting = &meeting;
                scope.spawn(move || {
                    let mut bytes = [0; 4];
                    meeting.exchange(&rank(number), &mut bytes).unwrap();
                    bytes
                })
            });
            meeting.exchange(&rank(0), &mut [1, 2, 3, 4]).unwrap();
            for reader in readers {
                assert_eq!(reader.join().unwrap(), [1, 2, 3, 4]);
            }
        });
        assert!(meeting.exchange(&rank(0), &mut [0; 4]).unwrap_err().to_string().contains("earlier start"));
        meeting.close();
        meeting.exchange(&rank(0), &mut [0; 4]).unwrap();
    }

    #[test]
    fn ranks_meet_at_an_address_and_strangers_get_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || serve(&listener, 3, &[1, 2, 3, 4]));
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut got = vec![];
        let _ = stranger.read_to_end(&mut got);
        assert!(got.is_empty());
        for number in [2, 1] {
            let mut bytes = [0; 4];
            ask(("127.0.0.1", port), number, &mut bytes).unwrap();
            assert_eq!(bytes, [1, 2, 3, 4]);
        }
        server.join().unwrap().unwrap();
    }
}
