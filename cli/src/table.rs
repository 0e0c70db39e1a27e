//! A table for people: columns as wide as their widest cell, text to the left, numbers to the right.

/// Rows of cells under a heading.
pub struct Table {
    rows: Vec<Vec<String>>,
    /// A letter a column: `l` for text, `r` for numbers; the last one goes for all that follow.
    sides: &'static str,
}

impl Table {
    /// A table with this heading. `sides` has a letter for each column, `l` for text and `r` for numbers; the last one goes
    /// for all that follow.
    pub fn new(sides: &'static str, heading: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Table { rows: vec![heading.into_iter().map(Into::into).collect()], sides }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    fn is_text(&self, column: usize) -> bool {
        let side = self.sides.chars().nth(column).or(self.sides.chars().last());
        side == Some('l')
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                line += if column > 0 { "  " } else { "" };
                line +=
                    &if self.is_text(column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("lr", ["picture", "PSNR"]);
        table.row(["a.png", "24.1"]);
        table.row(["longer name.png", "9.0"]);
        assert_eq!(
            table.to_string(),
            "picture          PSNR\na.png            24.1\nlonger name.png   9.0\n"
        );
    }
}
