//! Rows of text under a header, in columns.

/// Columns are not wider than this; what is longer pushes the rest of its row to the right.
const WIDEST: usize = 1_000;

/// The table as text, without a last end of line. Control characters, which would break rows or terminals, become
/// spaces.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| one_line(cell))).collect();
    let mut widths = header.map(|cell| cell.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count()).min(WIDEST);
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        line.trim_end().to_owned()
    };
    let rules = header.map(|cell| "-".repeat(cell.len()));
    let mut lines = vec![line(header), line(rules.each_ref().map(String::as_str))];
    lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
    lines.join("\n")
}

/// `text` without control characters.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["iris", "ModelAvailable"], ["a-long-name", "no\nway\u{1b}[31m"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["model", "state"], &rows),
            "model        state\n-----        -----\niris         ModelAvailable\na-long-name  no way [31m"
        );
        assert_eq!(table(["model"], &[]), "model\n-----");
        // No width that a format can have.
        let endless = "n".repeat(100_000);
        assert!(table(["model", "state"], &[[endless.clone(), "up".to_owned()]]).ends_with(&format!("{endless}  up")));
    }
}
