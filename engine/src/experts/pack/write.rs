//! Makes a side file: layer by layer under the name `MODEL.experts.part`, then renamed; and compares one with its model.
//!
//! A part that an earlier run left goes on where it ended. What it has is what its length says, and the last whole layer
//! is written again, for a system that stopped may have kept a length without its bytes.

use super::super::slots::{SlotShape, Which};
use super::super::{ExpertLayer, Layers};
use super::head::Head;
use super::{SideFile, no_experts, with_suffix};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernels::Layout;
use crate::os::{files, room};
use crate::simd::Isa;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What packing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of the whole file.
    pub bytes: u64,
    /// Layers that an earlier run had written.
    pub kept_layers: usize,
}

/// Writes the side file of a model. `progress` hears bytes done and bytes in all after every layer; its `false` stops, and
/// a later run goes on.
///
/// # Errors
/// When the model is in memory or has no experts, another process packs it, the disk has no room, or the system cannot.
pub fn pack(
    gguf: &Gguf,
    layers: &Layers,
    isa: Isa,
    mut progress: impl FnMut(u64, u64) -> bool,
) -> Result<Written> {
    let target = SideFile::path(gguf).ok_or_else(|| Error::request("a model in memory has no side file"))?;
    if layers.iter().all(Option::is_none) {
        return Err(no_experts());
    }
    let head = Head::of(gguf, layers, isa)?;
    let bytes = head.file_len();
    let (mut part, kept_layers) = Part::open(&target, &head)?;
    part.make_sure_of_room(bytes)?;
    for (number, layer) in layers.iter().enumerate().skip(kept_layers) {
        if let Some(layer) = layer {
            part.write_layer(layer, isa)?;
        }
        let done = head.layers.get(number + 1).map_or(bytes, |next| next.start);
        if !progress(done, bytes) {
            return Err(Error::Stopped);
        }
    }
    part.publish(&target)?;
    Ok(Written { bytes, kept_layers })
}

/// Compares every expert of the side file with the model's. `progress` as in [`pack`].
///
/// # Errors
/// When there is no side file, it does not fit the model, or has other bytes; names the first expert that differs.
pub fn verify(
    gguf: &Gguf,
    layers: &Layers,
    isa: Isa,
    mut progress: impl FnMut(u64, u64) -> bool,
) -> Result<u64> {
    let missing = || Error::request("there is no side file to verify; `moewe pack MODEL` makes one");
    let side = SideFile::beside(gguf)?.ok_or_else(missing)?;
    let path = side.mapping().path();
    if let Some(reason) = side.why_not(gguf, layers, isa) {
        return Err(Error::request(format!("{}: {reason}; pack it again", path.display())));
    }
    let mut bytes = vec![];
    for (number, layer) in layers.iter().enumerate() {
        let Some(layer) = layer else { continue };
        for expert in 0..layer.expert_count() as u32 {
            image(layer, expert, isa, &mut bytes);
            let start = side.position(number, expert) as usize;
            if side.mapping().get(start..start + bytes.len()) != Some(&*bytes) {
                return Err(Error::request(format!(
                    "{}: expert {expert} of layer {number} differs from the model's; pack it again",
                    path.display()
                )));
            }
        }
        let end = side.position(number, layer.expert_count() as u32);
        side.mapping().advise_done(0..end as usize);
        release(layer);
        if !progress(end, side.file_len()) {
            return Err(Error::Stopped);
        }
    }
    Ok(side.file_len())
}

/// An expert as a slot has it.
fn image(layer: &ExpertLayer, expert: u32, isa: Isa, bytes: &mut Vec<u8>) {
    let shape = SlotShape::of(layer);
    bytes.clear();
    bytes.resize(shape.len(), 0);
    for which in Which::ALL {
        if let Some(stack) = which.of(layer) {
            Layout::of(isa, stack.format).pack(stack.matrix(expert), &mut bytes[shape.range(which)]);
        }
    }
}

/// Lets go of what was mapped of a layer.
fn release(layer: &ExpertLayer) {
    layer.stacks().flat_map(|stack| &stack.experts).for_each(|expert| expert.advise_done());
}

/// A side file in the making, locked.
struct Part {
    file: File,
    path: PathBuf,
    len: u64,
    bytes: Vec<u8>, // of an expert
}

impl Part {
    /// Opens the part of a side file, and how many layers of it are there already.
    fn open(target: &Path, head: &Head) -> Result<(Self, usize)> {
        if target.is_dir() {
            return Err(Error::request(format!("{} is a folder", target.display())));
        }
        let path = with_suffix(target, ".part");
        room::report_file_limit();
        let io = |action: &'static str| {
            let path = path.clone();
            move |e| Error::io(path, action, e)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io("create"))?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let busy = "is being written by another process; wait for it";
            return Err(Error::request(format!("{} {busy}", path.display())));
        }
        let (wanted, mut found) = (head.to_bytes(), vec![]);
        (&file).take(wanted.len() as u64).read_to_end(&mut found).map_err(io("read"))?;
        let len = file.metadata().map_err(io("read the size of"))?.len();
        let whole = if found == wanted { whole_layers(head, len) } else { 0 };
        let kept = whole.saturating_sub(1);
        let start = if kept == 0 { 0 } else { head.layers[kept].start };
        file.set_len(start).map_err(io("write"))?;
        file.seek(SeekFrom::Start(start)).map_err(io("write"))?;
        let mut part = Self { file, path, len: start, bytes: vec![] };
        if start == 0 {
            part.write(&wanted)?;
        }
        Ok((part, kept))
    }

    /// # Errors
    /// When the disk has less than is still to be written of so many bytes.
    fn make_sure_of_room(&self, bytes: u64) -> Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let (free, missing) = (room::available(folder.unwrap_or(Path::new("."))), bytes - self.len);
        match free.filter(|free| *free < missing) {
            None => Ok(()),
            Some(free) => Err(Error::request(format!(
                "{}: {missing} bytes are still to be written, and the disk has room for {free}",
                self.path.display()
            ))),
        }
    }

    /// Writes a layer's experts, and sees to it that they are on the disk.
    fn write_layer(&mut self, layer: &ExpertLayer, isa: Isa) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        for expert in 0..layer.expert_count() as u32 {
            image(layer, expert, isa, &mut bytes);
            self.write(&bytes)?;
        }
        self.bytes = bytes;
        release(layer);
        self.file.sync_data().map_err(|e| Error::io(&self.path, "write to the disk", e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, "write", e))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name.
    fn publish(self, target: &Path) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, "write to the disk", e))?;
        let renamed = fs::rename(&self.path, target);
        renamed.map_err(|e| Error::io(target, "rename", files::explain_rename(e)))?;
        #[cfg(unix)]
        let _ = File::open(
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )
        .and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// How many layers a file of so many bytes has whole.
fn whole_layers(head: &Head, len: u64) -> usize {
    let ends = head.layers.iter().map(|layer| layer.start + u64::from(layer.experts) * layer.stride);
    ends.take_while(|end| *end <= len).count()
}
