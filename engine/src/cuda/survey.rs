//! Which cards the driver knows, those included that the kernels do not run on. No card is taken for it.

use super::device::LEAST_CAPABILITY;
use super::driver::{Driver, attribute};
use crate::error::Result;
use std::ffi::c_int;

/// What a driver knows.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The newest CUDA that it serves: major and minor version.
    pub cuda: (u32, u32),
    /// By their numbers.
    pub cards: Vec<Card>,
}

/// A card as the driver describes it.
#[derive(Clone, Debug)]
pub struct Card {
    /// What its maker calls it.
    pub name: String,
    /// Bytes of memory in all.
    pub memory: u64,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Whether the kernels run on it.
    pub is_served: bool,
}

/// Asks the driver.
///
/// # Errors
/// When there is none, it is too old or refuses to answer.
pub fn survey() -> Result<Survey> {
    let driver = Driver::open()?;
    let (mut version, mut count) = (0, 0);
    // SAFETY: here and below: the driver writes single values to places of the call.
    driver.check("cuDriverGetVersion", |d| unsafe { (d.cuDriverGetVersion)(&mut version) })?;
    // SAFETY: as above.
    driver.check("cuDeviceGetCount", |d| unsafe { (d.cuDeviceGetCount)(&mut count) })?;
    let cards = (0..count).map(|number| card(&driver, number)).collect::<Result<_>>()?;
    Ok(Survey { cuda: ((version / 1000) as u32, (version % 1000 / 10) as u32), cards })
}

fn card(driver: &Driver, number: c_int) -> Result<Card> {
    let (mut device, mut memory) = (0, 0);
    // SAFETY: as in `survey`.
    driver.check("cuDeviceGet", |d| unsafe { (d.cuDeviceGet)(&mut device, number) })?;
    // SAFETY: as in `survey`.
    driver.check("cuDeviceTotalMem_v2", |d| unsafe { (d.cuDeviceTotalMem_v2)(&mut memory, device) })?;
    let read = |which| driver.attribute(device, which);
    let capability = (read(attribute::CAPABILITY_MAJOR)?, read(attribute::CAPABILITY_MINOR)?);
    Ok(Card {
        name: driver.name(device)?,
        memory: memory as u64,
        capability: (capability.0 as u32, capability.1 as u32),
        multiprocessors: read(attribute::MULTIPROCESSORS)? as u32,
        is_served: capability >= LEAST_CAPABILITY,
    })
}
