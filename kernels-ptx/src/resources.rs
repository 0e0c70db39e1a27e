//! What each kernel costs on each GPU, as `ptxas` reported it when the PTX was made.
//!
//! The table is checked in beside the PTX, so that a change of registers or shared memory shows as a diff, and so
//! that the occupancy of a launch can be computed without a GPU.

/// One kernel assembled for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// The kernel's name.
    pub entry: String,
    /// The architecture, as `sm_80`.
    pub architecture: String,
    /// 32-bit registers a thread.
    pub registers: u32,
    /// Bytes a thread stores to local memory because registers ran out.
    pub spill_stores: u32,
    /// Bytes a thread loads back.
    pub spill_loads: u32,
    /// Bytes of stack a thread.
    pub stack: u32,
    /// Bytes of static shared memory a block; what a launch asks for on top is the launch rule's.
    pub shared: u32,
}

/// A line of the table that does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resource table, line {line}: expected entry, architecture and five counts, found {found:?}")]
pub struct ResourcesError {
    /// Counted from 1.
    pub line: usize,
    /// The line itself.
    pub found: String,
}

/// The first line of the table.
const HEADING: &str = "entry\tarchitecture\tregisters\tspill_stores\tspill_loads\tstack\tshared";

impl Resources {
    /// Reads a table as [`Resources::print`] writes it.
    pub fn parse(table: &str) -> Result<Vec<Self>, ResourcesError> {
        let rows = table.lines().enumerate().filter(|(_, row)| !row.is_empty() && *row != HEADING);
        rows.map(|(index, row)| {
            Self::parse_row(row).ok_or_else(|| ResourcesError { line: index + 1, found: row.to_owned() })
        })
        .collect()
    }

    fn parse_row(row: &str) -> Option<Self> {
        let [entry, architecture, registers, spill_stores, spill_loads, stack, shared]: [&str; 7] =
            row.split('\t').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            entry: entry.to_owned(),
            architecture: architecture.to_owned(),
            registers: registers.parse().ok()?,
            spill_stores: spill_stores.parse().ok()?,
            spill_loads: spill_loads.parse().ok()?,
            stack: stack.parse().ok()?,
            shared: shared.parse().ok()?,
        })
    }

    /// The table as tab-separated text with a heading.
    pub fn print(rows: &[Self]) -> String {
        let mut text = format!("{HEADING}\n");
        for r in rows {
            text.push_str(&format!(
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
                r.entry, r.architecture, r.registers, r.spill_stores, r.spill_loads, r.stack, r.shared
            ));
        }
        text
    }
}

/// The shipped table.
pub fn resources() -> Result<Vec<Resources>, ResourcesError> {
    Resources::parse(include_str!("../generated/resources.tsv"))
}

/// What one kernel costs on one architecture (as `sm_80`); none when the shipped table has no such row.
pub fn resources_of(entry: &str, architecture: &str) -> Option<Resources> {
    resources().ok()?.into_iter().find(|r| r.entry == entry && r.architecture == architecture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MODULES;

    #[test]
    fn the_shipped_table_has_a_row_for_every_kernel_and_architecture_and_no_spills() {
        let rows = resources().unwrap();
        for module in MODULES {
            for entry in module.entries {
                for architecture in module.target.architectures() {
                    let row = rows.iter().find(|r| r.entry == *entry && r.architecture == *architecture);
                    let row = row.unwrap_or_else(|| panic!("no row for {entry} on {architecture}"));
                    assert_eq!(
                        (row.spill_stores, row.spill_loads, row.stack),
                        (0, 0, 0),
                        "{entry} {architecture}"
                    );
                    assert!((1..=255).contains(&row.registers));
                }
            }
        }
    }

    #[test]
    fn a_table_reads_back_as_it_was_printed() {
        let rows = resources().unwrap();
        assert_eq!(Resources::parse(&Resources::print(&rows)).unwrap(), rows);
    }

    #[test]
    fn a_broken_row_is_an_error_with_its_line() {
        let error = Resources::parse(&format!("{HEADING}\nkernel\tsm_80\t12\n")).unwrap_err();
        assert_eq!(error.line, 2);
        let error = Resources::parse("kernel\tsm_80\t12\t0\t0\t0\tmany\n").unwrap_err();
        assert_eq!((error.line, error.found.as_str()), (1, "kernel\tsm_80\t12\t0\t0\t0\tmany"));
    }
}
