//! The time of day where the machine stands: what a clock on its wall shows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds from 1970-01-01 00:00 to what the wall clock shows now, as if that were UTC.
pub fn local_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let now = i64::try_from(now).unwrap_or(0);
    now + offset(now)
}

/// Seconds by which the wall clock is ahead of UTC at `moment`; 0 where that is not known.
#[cfg(unix)]
fn offset(moment: i64) -> i64 {
    let moment = moment as libc::time_t;
    // SAFETY: tm is a C struct of numbers and one pointer, for which all zeros are valid.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values; the call writes the struct and keeps neither.
    let done = unsafe { libc::localtime_r(&moment, &mut fields) };
    if done.is_null() { 0 } else { fields.tm_gmtoff as i64 }
}

#[cfg(windows)]
fn offset(moment: i64) -> i64 {
    local(moment).map_or(0, |local| local - moment)
}

/// The wall clock at `moment`, in seconds as if it were UTC, by this machine's time zone and its rules for summer.
#[cfg(windows)]
fn local(moment: i64) -> Option<i64> {
    use windows_sys::Win32::Foundation::{FILETIME, SYSTEMTIME};
    use windows_sys::Win32::System::Time::{
        FileTimeToSystemTime, SystemTimeToFileTime, SystemTimeToTzSpecificLocalTime,
    };
    const TICKS: i64 = 10_000_000; // of FILETIME in a second
    const BEFORE_1970: i64 = 11_644_473_600; // seconds from its beginning in 1601
    let ticks = moment.checked_add(BEFORE_1970)?.checked_mul(TICKS)?;
    let mut time = FILETIME { dwLowDateTime: ticks as u32, dwHighDateTime: (ticks >> 32) as u32 };
    let (mut utc, mut here) = (SYSTEMTIME::default(), SYSTEMTIME::default());
    // SAFETY: all pointers are to live structs, but for the null that stands for this machine's time zone.
    let done = unsafe {
        FileTimeToSystemTime(&time, &mut utc) != 0
            && SystemTimeToTzSpecificLocalTime(std::ptr::null(), &utc, &mut here) != 0
            && SystemTimeToFileTime(&here, &mut time) != 0
    };
    let ticks = i64::from(time.dwHighDateTime) << 32 | i64::from(time.dwLowDateTime);
    done.then_some(ticks / TICKS - BEFORE_1970)
}

#[cfg(not(any(unix, windows)))]
fn offset(_moment: i64) -> i64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_less_than_a_day_off() {
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((local_seconds() - utc).abs() <= 15 * 3600);
    }
}
