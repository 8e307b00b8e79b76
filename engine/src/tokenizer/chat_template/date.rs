//! `strftime`, which templates write the date with: the directives of C and Python in the C locale.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment, taken apart.
struct Moment {
    year: i64,
    month: u64,    // 1 to 12
    day: u64,      // 1 to 31
    weekday: u64,  // 0 is Sunday
    year_day: u64, // 0 is the first of January
    hour: u64,
    minute: u64,
    second: u64,
}

impl Moment {
    fn new(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u64);
        let (year, month, day) = civil(days);
        Self {
            year,
            month,
            day,
            weekday: (days + 4).rem_euclid(7) as u64,
            year_day: (days - days_before(year)) as u64,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// The hour on a dial.
    fn half_day_hour(&self) -> u64 {
        (self.hour + 11) % 12 + 1
    }

    /// What a directive stands for; `None` where it is not known. `pad` is what glibc's `-`, `_` and `0` say.
    fn directive(&self, letter: char, pad: Option<char>) -> Option<String> {
        let number = |value: u64, width: usize, usual: char| match pad.unwrap_or(usual) {
            '-' => value.to_string(),
            '_' => format!("{value:width$}"),
            _ => format!("{value:0width$}"),
        };
        let weekday = WEEKDAYS[self.weekday as usize];
        let month = MONTHS[self.month as usize - 1];
        let year_of_century = self.year.rem_euclid(100) as u64;
        Some(match letter {
            'Y' => self.year.to_string(),
            'C' => number(self.year.div_euclid(100).unsigned_abs(), 2, '0'),
            'y' => number(year_of_century, 2, '0'),
            'm' => number(self.month, 2, '0'),
            'd' => number(self.day, 2, '0'),
            'e' => number(self.day, 2, '_'),
            'j' => number(self.year_day + 1, 3, '0'),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'u' => (if self.weekday == 0 { 7 } else { self.weekday }).to_string(),
            'w' => self.weekday.to_string(),
            'U' => number((self.year_day + 7 - self.weekday) / 7, 2, '0'),
            'W' => number((self.year_day + 7 - (self.weekday + 6) % 7) / 7, 2, '0'),
            'H' => number(self.hour, 2, '0'),
            'k' => number(self.hour, 2, '_'),
            'I' => number(self.half_day_hour(), 2, '0'),
            'l' => number(self.half_day_hour(), 2, '_'),
            'M' => number(self.minute, 2, '0'),
            'S' => number(self.second, 2, '0'),
            'f' => "000000".to_owned(), // microseconds, which no prompt wants
            'p' => (if self.hour < 12 { "AM" } else { "PM" }).to_owned(),
            'P' => (if self.hour < 12 { "am" } else { "pm" }).to_owned(),
            'D' | 'x' => self.text("%m/%d/%y"),
            'F' => self.text("%Y-%m-%d"),
            'T' | 'X' => self.text("%H:%M:%S"),
            'R' => self.text("%H:%M"),
            'r' => self.text("%I:%M:%S %p"),
            'c' => self.text("%a %b %e %H:%M:%S %Y"),
            'z' | 'Z' => String::new(), // as Python writes a time without a zone, which Hugging Face's is
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }

    fn text(&self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let mut letters = rest.chars();
            let first = letters.next();
            let pad = first.filter(|first| "-_0".contains(*first));
            let letter = if pad.is_some() { letters.next() } else { first };
            match letter.and_then(|letter| self.directive(letter, pad)) {
                Some(written) => {
                    text += &written;
                    rest = letters.as_str();
                }
                None => text.push('%'),
            }
        }
        text + rest
    }
}

/// `strftime` of the moment `seconds` after 1970 on the wall clock; directives that are not known stay as they are.
pub fn date(format: &str, seconds: i64) -> String {
    Moment::new(seconds).text(format)
}

/// Year, month and day of the day `days` after 1970-01-01 (Hinnant's "chrono-compatible date algorithms").
fn civil(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 = March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month as u64, day as u64)
}

/// Days from 1970-01-01 to the first of January.
fn days_before(year: i64) -> i64 {
    let before = year - 1;
    before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from Python 3.11's `datetime.strftime`.
    #[test]
    fn dates() {
        let cases = [
            (0, "%Y-%m-%d %H:%M:%S %a %A", "1970-01-01 00:00:00 Thu Thursday"),
            (951_782_400, "%d %b %Y", "29 Feb 2000"),
            (1_795_219_199, "%B %d, %Y|%y|%q|%", "November 20, 2026|26|%q|%"),
            (4_107_542_399, "%d.%m.%Y %M%%", "28.02.2100 59%"),
            (1_770_257_100, "%I:%M %p on %-d %b, day %j, %H:%M", "02:05 AM on 5 Feb, day 036, 02:05"),
            (1_770_300_300, "%I %l %-I %k %p %e %_d %-m %-j", "02  2 2 14 PM  5  5 2 36"),
            (
                1_770_300_300,
                "%c|%x|%X|%D|%F|%T|%R|%r",
                "Thu Feb  5 14:05:00 2026|02/05/26|14:05:00|02/05/26|2026-02-05|14:05:00|14:05|02:05:00 PM",
            ),
            (1_770_300_300, "%U %W %u %w %Z%z%%%n", "05 05 4 4 %\n"),
            (1_798_761_599, "%j %U %W %u", "365 52 52 4"),
            (1_735_689_600, "%j %U %W", "001 00 00"),
            (-1, "%F %T %a", "1969-12-31 23:59:59 Wed"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(date(format, seconds), expected, "{format}");
        }
    }
}
