//! `strftime_now` for chat templates: some tell the model what day it is. The time is UTC's, since nothing here knows where
//! the user is.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

/// The present time in the format of C's `strftime`. The error names a letter that is not known.
pub(super) fn strftime_now(format: &str) -> Result<String, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    strftime(format, now)
}

/// `seconds` since 1970.
fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, week_day) = (MONTHS[month as usize - 1], DAYS[(days + 4) as usize % 7]);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year % 100),
            Some('m') => out += &format!("{month:02}"),
            Some('B') => out += month_name,
            Some('b') => out += &month_name[..3],
            Some('d') => out += &format!("{day:02}"),
            Some('e') => out += &format!("{day:2}"),
            Some('A') => out += week_day,
            Some('a') => out += &week_day[..3],
            Some('H') => out += &format!("{:02}", of_day / 3600),
            Some('M') => out += &format!("{:02}", of_day / 60 % 60),
            Some('S') => out += &format!("{:02}", of_day % 60),
            Some('%') => out.push('%'),
            other => return Err(format!("strftime_now: %{} is not known", other.unwrap_or(' '))),
        }
    }
    Ok(out)
}

/// Year, month and day of a number of days since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March of the year 0, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let full = "%A %a %d %e %B %b %m %Y %y %H:%M:%S %%";
        let expected = "Thursday Thu 01  1 January Jan 01 1970 70 00:00:00 %";
        assert_eq!(strftime(full, 0).unwrap(), expected);
        // `date -u -d @1709210096`
        assert_eq!(strftime("%d %b %Y %H:%M:%S", 1_709_210_096).unwrap(), "29 Feb 2024 12:34:56");
        assert_eq!(strftime("%A %d %B %Y", 4_102_444_799).unwrap(), "Thursday 31 December 2099");
        assert_eq!(strftime("%Q", 0).unwrap_err(), "strftime_now: %Q is not known");
        assert!(strftime_now("%Y").unwrap().parse::<u32>().unwrap() >= 2024);
    }
}
