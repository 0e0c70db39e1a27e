//! A contact sheet: one row for each picture, one labelled column for each way it was made.
//!
//! Input, renderer, diffusion and prefixes side by side are how a person judges a tokenizer. Pictures are shown as they
//! are: no resampling but whole-number magnification, so that a pixel stays a pixel.

mod font;

use std::borrow::Borrow;

use crate::picture::{Limits, Picture};

/// Why a contact sheet could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SheetError {
    /// No rows or no columns.
    #[error("a contact sheet needs at least one row and one column; here are {rows} and {columns}")]
    Empty {
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        columns: usize,
    },
    /// A row has more or fewer pictures than there are columns.
    #[error("row {row} of the contact sheet has {pictures} pictures for {columns} columns")]
    Uneven {
        /// Which row, from 0.
        row: usize,
        /// Its pictures.
        pictures: usize,
        /// Number of columns.
        columns: usize,
    },
    /// The sheet would be larger than a picture may be.
    #[error("the contact sheet would have {width}x{height} pixels; show fewer or smaller pictures")]
    TooLarge {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
}

/// Small pictures are magnified until a cell has about this many pixels a side.
const CELL: usize = 192;
const GUTTER: usize = 4;
const MARGIN: usize = 12;
const PAPER: [u8; 3] = [238, 238, 235];
const INK: [u8; 3] = [48, 48, 52];
/// Around a picture that does not fill its cell.
const EMPTY: [u8; 3] = [226, 226, 223];

/// Draws `rows` of one picture for each of `columns`, the column labels on top.
///
/// Labels are printable ASCII; one that is wider than its column is cut and ends in `..`.
pub fn contact_sheet<P: Borrow<Picture>>(
    columns: &[impl AsRef<str>],
    rows: &[Vec<P>],
) -> Result<Picture, SheetError> {
    if rows.is_empty() || columns.is_empty() {
        return Err(SheetError::Empty { rows: rows.len(), columns: columns.len() });
    }
    if let Some((row, pictures)) = rows.iter().map(Vec::len).enumerate().find(|&(_, n)| n != columns.len()) {
        return Err(SheetError::Uneven { row, pictures, columns: columns.len() });
    }
    let layout = Layout::new(columns, rows)?;
    let mut canvas = Canvas::new(layout.width, layout.height);
    for (column, label) in columns.iter().enumerate() {
        let label = fit(label.as_ref(), layout.cell.0, layout.dot);
        let text_width = label.chars().count() * font::ADVANCE * layout.dot;
        let x = layout.cell_at(0, column).0
            + layout.cell.0.saturating_sub(text_width.saturating_sub(layout.dot)) / 2;
        canvas.text(&label, x, MARGIN, layout.dot);
    }
    for (row, pictures) in rows.iter().enumerate() {
        for (column, picture) in pictures.iter().enumerate() {
            canvas.place(picture.borrow(), layout.cell_at(row, column), layout.cell);
        }
    }
    Ok(canvas.into_picture())
}

struct Layout {
    /// Width and height of a cell.
    cell: (usize, usize),
    /// Pixels of a font dot.
    dot: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Layout {
    fn new<P: Borrow<Picture>>(columns: &[impl AsRef<str>], rows: &[Vec<P>]) -> Result<Self, SheetError> {
        let sizes =
            || rows.iter().flatten().map(|p| (p.borrow().width() as usize, p.borrow().height() as usize));
        let largest = (sizes().map(|s| s.0).max().unwrap_or(1), sizes().map(|s| s.1).max().unwrap_or(1));
        let zoom = (CELL / largest.0.max(largest.1)).max(1);
        // A column of very small or narrow pictures still has room for a few letters.
        let cell = ((largest.0 * zoom).max(CELL / 3), largest.1 * zoom);
        let longest = columns.iter().map(|label| label.as_ref().chars().count()).max().unwrap_or(0);
        let dot = if longest * font::ADVANCE * 2 <= cell.0 { 2 } else { 1 };
        let top = MARGIN + font::HEIGHT * dot + MARGIN / 2 + dot;
        let span = |cells: usize, size: usize| cells.saturating_mul(size + GUTTER) - GUTTER;
        let width = span(columns.len(), cell.0).saturating_add(2 * MARGIN);
        let height = span(rows.len(), cell.1).saturating_add(top + MARGIN);
        let limits = Limits::default();
        if width.max(height) > limits.max_side as usize || (width * height) as u64 > limits.max_pixels {
            return Err(SheetError::TooLarge { width, height });
        }
        Ok(Self { cell, dot, top, width, height })
    }

    fn cell_at(&self, row: usize, column: usize) -> (usize, usize) {
        (MARGIN + column * (self.cell.0 + GUTTER), self.top + row * (self.cell.1 + GUTTER))
    }
}

/// The label, or as much of it as `width` pixels hold.
fn fit(label: &str, width: usize, dot: usize) -> String {
    let room = (width + dot) / (font::ADVANCE * dot);
    if label.chars().count() <= room {
        return label.to_string();
    }
    label.chars().take(room.saturating_sub(2)).chain("..".chars()).take(room.max(1)).collect()
}

struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: PAPER.repeat(width * height) }
    }

    /// Colours the part of a rectangle that lies on the canvas.
    fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), colour: [u8; 3]) {
        let right = (x + width).min(self.width);
        for row in y.min(self.height)..(y + height).min(self.height) {
            let line = (row * self.width + x.min(right)) * 3..(row * self.width + right) * 3;
            self.rgb[line].chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&colour));
        }
    }

    fn text(&mut self, text: &str, x: usize, y: usize, dot: usize) {
        for (i, c) in text.chars().enumerate() {
            for (dx, dy) in font::dots(c) {
                let at = (x + (i * font::ADVANCE + dx) * dot, y + dy * dot);
                self.fill(at, (dot, dot), INK);
            }
        }
    }

    /// Draws a picture in the middle of its cell, magnified as often as it fits.
    fn place(&mut self, picture: &Picture, (x, y): (usize, usize), cell: (usize, usize)) {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let zoom = (cell.0 / width).min(cell.1 / height).max(1);
        let (left, top) = (x + (cell.0 - width * zoom) / 2, y + (cell.1 - height * zoom) / 2);
        if (width * zoom, height * zoom) != cell {
            self.fill((x, y), cell, EMPTY);
        }
        for (row, line) in picture.rgb().chunks_exact(width * 3).enumerate() {
            let first = ((top + row * zoom) * self.width + left) * 3;
            let out = &mut self.rgb[first..first + width * zoom * 3];
            for (pixel, block) in line.chunks_exact(3).zip(out.chunks_exact_mut(3 * zoom)) {
                block.chunks_exact_mut(3).for_each(|p| p.copy_from_slice(pixel));
            }
            for again in 1..zoom {
                let to = first + again * self.width * 3;
                self.rgb.copy_within(first..first + width * zoom * 3, to);
            }
        }
    }

    fn into_picture(self) -> Picture {
        Picture::from_rgb(self.width as u32, self.height as u32, self.rgb)
            .expect("the layout keeps the canvas above zero and within u32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, colour: [u8; 3]) -> Picture {
        Picture::from_rgb(width, height, colour.repeat((width * height) as usize)).unwrap()
    }

    fn pixel(sheet: &Picture, x: usize, y: usize) -> [u8; 3] {
        let at = (y * sheet.width() as usize + x) * 3;
        sheet.rgb()[at..at + 3].try_into().unwrap()
    }

    #[test]
    fn small_pictures_are_magnified_by_whole_numbers() {
        let sheet =
            contact_sheet(&["one", "two"], &[vec![flat(64, 64, [255, 0, 0]), flat(64, 64, [0, 0, 255])]]);
        let sheet = sheet.unwrap();
        let top = sheet.height() as usize - MARGIN - 192;
        assert_eq!(sheet.width() as usize, 2 * MARGIN + 2 * 192 + GUTTER);
        // The four corners of both cells, and the gutter between them.
        for (x, colour) in [(MARGIN, [255, 0, 0]), (MARGIN + 192 + GUTTER, [0, 0, 255])] {
            for (dx, dy) in [(0, 0), (191, 0), (0, 191), (191, 191)] {
                assert_eq!(pixel(&sheet, x + dx, top + dy), colour);
            }
        }
        assert_eq!(pixel(&sheet, MARGIN + 192, top), PAPER);
        assert_eq!(pixel(&sheet, MARGIN, top - 1), PAPER);
    }

    #[test]
    fn pictures_of_other_sizes_are_centred_in_the_cell() {
        let sheet =
            contact_sheet(&["a"], &[vec![flat(300, 300, [1; 3])], vec![flat(100, 50, [2; 3])]]).unwrap();
        let (cells, count) = (sheet.rgb().chunks_exact(3), |v: [u8; 3]| {
            sheet.rgb().chunks_exact(3).filter(|p| **p == v).count()
        });
        assert_eq!(cells.len(), sheet.width() as usize * sheet.height() as usize);
        assert_eq!((count([1; 3]), count([2; 3])), (90_000, 300 * 150));
        assert_eq!(count(EMPTY), 90_000 - 300 * 150);
    }

    #[test]
    fn a_label_too_long_is_cut() {
        assert_eq!(fit("diffusion", 60, 1), "diffusion");
        assert_eq!(fit("diffusion, 50 steps", 60, 1), "diffusio..");
        assert_eq!(fit("diffusion", 6, 1), ".");
        let ink = |label| {
            let sheet = contact_sheet(&[label], &[vec![flat(8, 8, [9; 3])]]).unwrap();
            sheet.rgb().chunks_exact(3).filter(|p| **p == INK).count()
        };
        assert_eq!(ink(""), 0);
        assert_eq!(ink("-"), 5 * 4);
        assert!(ink(&"w".repeat(1000)) > 0);
    }

    #[test]
    fn sheets_that_make_no_sense_are_errors() {
        let none: [Vec<Picture>; 0] = [];
        assert!(matches!(contact_sheet(&["a"], &none), Err(SheetError::Empty { .. })));
        let uneven = contact_sheet(&["a", "b"], &[vec![flat(1, 1, [0; 3])]]).unwrap_err();
        assert_eq!(uneven.to_string(), "row 0 of the contact sheet has 1 pictures for 2 columns");
        let wide = flat(20_000, 1, [0; 3]);
        assert!(matches!(
            contact_sheet(&["a", "b"], &[vec![&wide, &wide]]),
            Err(SheetError::TooLarge { .. })
        ));
    }
}
