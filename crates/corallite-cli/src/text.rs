//! How things look: colours, sizes, times, tables, bars.
//!
//! Names come from files that anybody may have made; none reaches the terminal before [`printable`] has taken the
//! characters out of it that would steer one.

use std::fmt::Write;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colours: bool,
}

impl Paint {
    /// Colours when the stream is a terminal that wants them: not with `NO_COLOR` or `TERM=dumb`.
    pub(crate) fn for_terminal(is_terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colours: is_terminal && !refused }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { colours: false }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }
}

/// Whether a character steers the terminal or changes the direction of what follows instead of being seen.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with what would steer the terminal escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) { out.extend(character.escape_default()) } else { out.push(character) }
    }
    out
}

/// The text on one line: line breaks become spaces, what would steer the terminal is escaped.
pub(crate) fn one_line(text: &str) -> String {
    printable(&text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
}

/// The text, cut in its middle to at most `most` characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let tail = most / 2;
    let head = most - tail - 1;
    let mut out: String = text.chars().take(head).collect();
    out.push('…');
    out.extend(text.chars().skip(count - tail));
    out
}

/// A number of bytes for people: `90.9 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // What would be rounded to 1000.0 is 1.0 of the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Bytes per second for people.
pub(crate) fn speed(count: u64, seconds: f64) -> String {
    if seconds > 0.0 { format!("{:.0} MB/s", count as f64 / seconds / 1e6) } else { "-".to_owned() }
}

/// `1 weight`, `2 weights`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A shape: `[384, 1536]`, and `scalar` for one number.
pub(crate) fn shape(dims: &[u64]) -> String {
    if dims.is_empty() { "scalar".to_owned() } else { format!("{dims:?}") }
}

/// A key's first digits; long keys that are no hash stay readable at both ends.
pub(crate) fn short_key(key: &str) -> String {
    match key.get(..12) {
        Some(head) if key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) => head.to_owned(),
        _ => shortened(&printable(key), 24),
    }
}

/// How a weight is stored: `whole`, or as a delta of which other.
pub(crate) fn stored_as(base: Option<&str>) -> String {
    base.map_or_else(|| "whole".to_owned(), |base| format!("delta of {}", short_key(base)))
}

/// A share for people: `40.8 %`; what is there is not said to be 0, nor what is not all to be 100.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    match share {
        share if part > 0 && share < 0.05 => "< 0.1 %".to_owned(),
        share if part < whole && share >= 99.95 => "> 99.9 %".to_owned(),
        share => format!("{share:.1} %"),
    }
}

/// A number of six significant digits, without the zeros at its end.
pub(crate) fn number(value: f64) -> String {
    significant(value, 6)
}

/// A number of three significant digits, to be compared with others at a glance.
pub(crate) fn rough_number(value: f64) -> String {
    significant(value, 3)
}

fn significant(value: f64, count: usize) -> String {
    let after_first = count - 1;
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs();
    if !(1e-4..1e9).contains(&magnitude) {
        return format!("{value:.after_first$e}");
    }
    let digits = (after_first as f64 - magnitude.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A point in time, in UTC, as RFC 3339 has it; `None` when it is not known.
pub(crate) fn time(nanoseconds: u64) -> Option<String> {
    if nanoseconds == 0 {
        return None;
    }
    let seconds = nanoseconds / 1_000_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// The same for a table: `2026-03-01 09:30:00`.
pub(crate) fn table_time(nanoseconds: u64) -> String {
    time(nanoseconds).map_or_else(|| "-".to_owned(), |text| text.replace('T', " ").replace('Z', ""))
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// Howard Hinnant's `civil_from_days`: years that begin in March end with the leap day, which makes months regular.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A bar of `width` characters at most, in eighths of a character.
pub(crate) fn bar(part: u64, whole: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if whole == 0 || part == 0 {
        return String::new();
    }
    let eighths = ((part as f64 / whole as f64) * (width * 8) as f64).round() as usize;
    let eighths = eighths.clamp(1, width * 8);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// Which side of a column its text keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A table with a head, as wide as what is in it.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one text for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table as lines; the head is dimmed.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let width = |index: usize, head: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            cells.chain([head.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(index, (head, _))| width(index, head)).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, width), (_, side)) in cells.zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let _ = match side {
                    Side::Left => write!(line, "{cell:<width$}"),
                    Side::Right => write!(line, "{cell:>width$}"),
                };
            }
            line.truncate(line.trim_end().len());
            line
        };
        let mut out = paint.dim(&line(&mut self.columns.iter().map(|(head, _)| *head))) + "\n";
        for row in &self.rows {
            out += &line(&mut row.iter().map(String::as_str));
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_868_376, "90.9 MB"), (999_960, "1.0 MB")];
        for (count, want) in cases {
            assert_eq!(bytes(count), want);
        }
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn times_agree_with_the_calendar() {
        let at = |seconds: u64| time(seconds * 1_000_000_000).unwrap();
        assert_eq!(at(1), "1970-01-01T00:00:01Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(time(0), None);
        assert!(time(u64::MAX).is_some());
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\u{202e}c\nd"), "a\\u{1b}[31mb\\u{202e}c\\nd");
        assert_eq!(printable("ünïcödé 層 💾"), "ünïcödé 層 💾");
        assert_eq!(one_line("first\n   second\r\n\nthird\x07"), "first second third\\u{7}");
    }

    #[test]
    fn a_long_name_keeps_both_its_ends() {
        assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
        assert_eq!(shortened("abcdefghij", 7), "abc…hij");
        assert_eq!(shortened("層層層層層", 3), "層…層");
    }

    #[test]
    fn numbers_have_six_digits() {
        let cases =
            [(0.0, "0"), (1.0, "1"), (-0.028_714_23, "-0.0287142"), (123_456.7, "123457"), (1e-9, "1.00000e-9")];
        for (value, want) in cases {
            assert_eq!(number(value), want);
        }
        assert_eq!(number(f64::MAX), "1.79769e308");
        assert_eq!(number(1234.5), "1234.5");
    }

    #[test]
    fn rough_numbers_have_three_digits() {
        for (value, want) in [(0.0, "0"), (0.003_459_47, "0.00346"), (4.837_29e-6, "4.84e-6"), (12_345.6, "12346")] {
            assert_eq!(rough_number(value), want);
        }
    }

    #[test]
    fn a_share_is_not_rounded_to_none_or_all() {
        let cases = [(0, 9, "0.0 %"), (1, 9, "11.1 %"), (9, 9, "100.0 %"), (0, 0, "0.0 %")];
        for (part, whole, want) in cases {
            assert_eq!(percent(part, whole), want);
        }
        assert_eq!((percent(1, 1 << 20), percent((1 << 20) - 1, 1 << 20)), ("< 0.1 %".into(), "> 99.9 %".into()));
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(bar(1, 1, 4), "████");
        assert_eq!(bar(1, 2, 4), "██");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(0, 4, 4), "");
        assert_eq!(bar(9, 3, 4), "████");
    }

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(&[("NAME", Side::Left), ("SIZE", Side::Right)]);
        table.row(["a".into(), "1.0 kB".into()]);
        table.row(["層-long".into(), "9 B".into()]);
        assert_eq!(table.render(Paint::plain()), "NAME      SIZE\na       1.0 kB\n層-long     9 B\n");
    }
}
