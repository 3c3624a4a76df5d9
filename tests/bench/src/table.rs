//! Tables of Markdown.

/// A table that is being filled.
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Table {
        Table { columns: columns.iter().map(|column| (*column).to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        self.rows.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }

    /// The first column to the left, the others, which are numbers, to the right.
    pub(crate) fn print(&self) {
        let line = |cells: &[String]| println!("| {} |", cells.join(" | "));
        line(&self.columns);
        let rules = (0..self.columns.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned());
        line(&rules.collect::<Vec<_>>());
        for row in &self.rows {
            line(row);
        }
    }
}
