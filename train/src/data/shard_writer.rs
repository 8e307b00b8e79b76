//! Cuts a stream of token ids into rows and writes them as `shard_00000.npy`, `shard_00001.npy`, …
//!
//! A row is written when it is full; what remains at the end of the stream is left out. Where documents begin and end
//! is not its business.

use super::npy::{Dtype, HEADER, Header};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

/// How shards are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub context: usize, // tokens of a row
    pub rows_per_shard: u64,
    pub dtype: Dtype,
}

/// Shards in the making; nothing is created before the first row is full.
pub(super) struct ShardWriter {
    folder: PathBuf,
    cut: Cut,
    row: Vec<u8>, // bytes of the row that is being filled
    shard: Option<Shard>,
    shards: u64, // begun so far
    rows: u64,   // written so far
}

struct Shard {
    path: PathBuf,
    file: BufWriter<File>,
    rows: u64,
}

impl ShardWriter {
    pub(super) fn new(folder: PathBuf, cut: Cut) -> Self {
        Self { folder, cut, row: Vec::new(), shard: None, shards: 0, rows: 0 }
    }

    /// Appends ids to the stream; all of them fit the type.
    pub(super) fn push(&mut self, ids: &[u32]) -> Result<()> {
        let row_bytes = self.cut.context * self.cut.dtype.bytes();
        for &id in ids {
            match self.cut.dtype {
                Dtype::U16 => self.row.extend((id as u16).to_le_bytes()),
                _ => self.row.extend(id.to_le_bytes()),
            }
            if self.row.len() == row_bytes {
                self.write_row()?;
            }
        }
        Ok(())
    }

    fn write_row(&mut self) -> Result<()> {
        let mut shard = match self.shard.take() {
            Some(shard) => shard,
            None => self.begin()?,
        };
        shard.file.write_all(&self.row).map_err(|error| Error::io(&shard.path, "write", error))?;
        self.row.clear();
        self.rows += 1;
        shard.rows += 1;
        if shard.rows == self.cut.rows_per_shard {
            shard.finish(self.cut)?;
        } else {
            self.shard = Some(shard);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<Shard> {
        let path = shard_path(&self.folder, self.shards);
        self.shards += 1;
        std::fs::create_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, "create", error))?;
        let file = File::create(&path).map_err(|error| Error::io(&path, "create", error))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HEADER]).map_err(|error| Error::io(&path, "write", error))?;
        Ok(Shard { path, file, rows: 0 })
    }

    /// Closes the last shard; rows and shards that were written.
    pub(super) fn finish(mut self) -> Result<(u64, u64)> {
        self.shard.take().map_or(Ok(()), |shard| shard.finish(self.cut))?;
        Ok((self.rows, self.shards))
    }
}

impl Shard {
    /// Puts the header, which needs the number of rows, where room was left for it.
    fn finish(mut self, cut: Cut) -> Result<()> {
        let header = Header::write(cut.dtype, self.rows, cut.context);
        let written =
            self.file.rewind().and_then(|()| self.file.write_all(&header)).and_then(|()| self.file.flush());
        written.map_err(|error| Error::io(&self.path, "write", error))
    }
}

fn shard_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("shard_{number:05}.npy"))
}
