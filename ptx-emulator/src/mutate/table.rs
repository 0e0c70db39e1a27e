//! What a campaign found: by mutant, as counts, and beside the explanations of what nothing found.

use super::Kind;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What became of one mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The mutant's id.
    pub id: String,
    /// What was broken.
    pub kind: Kind,
    /// Line of the PTX text; none for host code.
    pub line: Option<u32>,
    /// The edit.
    pub change: String,
    /// What found it first: a check, `wrong result`, `hang`, `refused` or `crash`; else `survivor` or `not run`.
    pub detector: String,
    /// All that find it, the first of them first, as far as the campaign looked. May leave out `detector` where that is no check.
    pub findings: Vec<String>,
    /// The test that found it first, and the first line of what it said.
    pub message: String,
}

/// What `detector` says of a mutant that nothing found.
pub const SURVIVOR: &str = "survivor";
/// What `detector` says of a mutant for which no time was left.
pub const NOT_RUN: &str = "not run";

impl Outcome {
    /// All that find it.
    pub fn detectors(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.findings.iter().map(String::as_str).collect();
        if self.was_found() && !all.contains(&self.detector.as_str()) {
            all.insert(0, &self.detector);
        }
        all
    }

    /// Whether anything finds it.
    pub fn was_found(&self) -> bool {
        self.detector != SURVIVOR && self.detector != NOT_RUN
    }
}

/// The outcomes of a campaign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// One for each mutant.
    pub outcomes: Vec<Outcome>,
}

impl Table {
    /// The mutants that nothing found.
    pub fn survivors(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|o| o.detector == SURVIVOR)
    }

    /// Adds another table's outcomes.
    pub fn extend(&mut self, other: Table) {
        self.outcomes.extend(other.outcomes);
    }

    /// Counts by kind and by what found it first.
    pub fn counts(&self) -> BTreeMap<Kind, BTreeMap<&str, usize>> {
        self.count(|o| vec![&o.detector])
    }

    /// Counts by kind and by all that find it: a mutant counts once for each.
    pub fn counts_of_all(&self) -> BTreeMap<Kind, BTreeMap<&str, usize>> {
        self.count(|o| if o.was_found() { o.detectors() } else { vec![&o.detector] })
    }

    fn count<'t>(
        &'t self,
        of: impl Fn(&'t Outcome) -> Vec<&'t str>,
    ) -> BTreeMap<Kind, BTreeMap<&'t str, usize>> {
        let mut counts: BTreeMap<Kind, BTreeMap<&str, usize>> = BTreeMap::new();
        for o in &self.outcomes {
            of(o).into_iter().for_each(|d| *counts.entry(o.kind).or_default().entry(d).or_default() += 1);
        }
        counts
    }

    /// What found each first, as a table in Markdown: a row for each kind, a column for each detector.
    pub fn to_text(&self) -> String {
        self.rows(&self.counts())
    }

    /// All that find each, as a table in Markdown.
    pub fn all_to_text(&self) -> String {
        self.rows(&self.counts_of_all())
    }

    fn rows(&self, counts: &BTreeMap<Kind, BTreeMap<&str, usize>>) -> String {
        let columns: BTreeSet<&str> = counts.values().flat_map(|by| by.keys().copied()).collect();
        let mut text = String::from("| broken | mutants |");
        columns.iter().for_each(|c| text += &format!(" {c} |"));
        text += "\n| --- | --- |";
        columns.iter().for_each(|_| text += " --- |");
        text += "\n";
        let row = |name: &str, total: usize, of: &dyn Fn(&str) -> usize| {
            let cells: String = columns.iter().map(|c| format!(" {} |", of(c))).collect();
            format!("| {name} | {total} |{cells}\n")
        };
        for (kind, by) in counts {
            let total = self.outcomes.iter().filter(|o| o.kind == *kind).count();
            text += &row(kind.name(), total, &|c| by.get(c).copied().unwrap_or(0));
        }
        text += &row("all", self.outcomes.len(), &|c| counts.values().filter_map(|by| by.get(c)).sum());
        text
    }

    /// What only one thing finds, as a table in Markdown: a row for each detector; for the checks, with the ids of those that only
    /// it finds.
    pub fn alone_to_text(&self) -> String {
        let mut by: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
        for o in &self.outcomes {
            let detectors = o.detectors();
            for d in &detectors {
                let row = by.entry(d).or_default();
                row.0 += 1;
                if detectors.len() == 1 {
                    row.1.push(&o.id);
                }
            }
        }
        let mut text =
            String::from("| detector | finds | alone | which only it finds |\n| --- | --- | --- | --- |\n");
        for (detector, (all, alone)) in by {
            // A wrong result needs a test that knows the right one; what only it finds is all that is no matter of form.
            let ids = if detector == "wrong result" { String::new() } else { ranges(&alone) };
            text += &format!("| {detector} | {all} | {} | {ids} |\n", alone.len());
        }
        text
    }

    /// The outcomes and the counts as JSON.
    pub fn to_json(&self) -> String {
        let counts: BTreeMap<&str, BTreeMap<&str, usize>> =
            self.counts().into_iter().map(|(k, v)| (k.name(), v)).collect();
        serde_json::to_string_pretty(&serde_json::json!({ "counts": counts, "outcomes": self.outcomes }))
            .expect("a table holds only numbers and strings")
    }
}

/// Survivors that somebody has explained, read from a text of lines such as
/// ``- `gemm:bound:3` `gemm:bound:5-7`: the rows are the same either way``.
///
/// The last number of an id may be a range. A reason goes on until the next line that begins with `- ` or is empty.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    reasons: BTreeMap<String, String>,
}

impl Explained {
    /// Reads the lines; whatever else the text has is prose.
    pub fn parse(text: &str) -> Explained {
        let mut reasons = BTreeMap::new();
        let mut ids: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some(item) = line.strip_prefix("- `") {
                let Some((names, reason)) = item.rsplit_once("`:") else { continue };
                ids = names.split(['`', ',', ' ']).filter(|n| !n.is_empty()).flat_map(expand).collect();
                ids.iter().for_each(|id| drop(reasons.insert(id.clone(), reason.trim().to_owned())));
            } else if line.trim().is_empty() {
                ids.clear();
            } else {
                for id in &ids {
                    let reason: &mut String = reasons.entry(id.clone()).or_default();
                    *reason += " ";
                    *reason += line.trim();
                }
            }
        }
        Explained { reasons }
    }

    /// Why this survivor is equivalent.
    pub fn reason(&self, id: &str) -> Option<&str> {
        self.reasons.get(id).map(String::as_str).filter(|r| !r.is_empty())
    }

    /// Survivors without a reason, as ids with their edits.
    pub fn missing(&self, table: &Table) -> Vec<String> {
        let missing = table.survivors().filter(|o| self.reason(&o.id).is_none());
        missing.map(|o| format!("{} (line {}): {}", o.id, o.line.unwrap_or(0), o.change)).collect()
    }

    /// Reasons for mutants that were found after all, or that were run and do not exist: they are out of date.
    pub fn outdated(&self, table: &Table) -> Vec<String> {
        let found = |id: &&String| table.outcomes.iter().any(|o| o.id == **id && o.was_found());
        self.reasons.keys().filter(found).cloned().collect()
    }
}

/// Ids in the order given, as `a:bound:3-5` where numbers follow each other.
fn ranges(ids: &[&str]) -> String {
    let mut out: Vec<(String, u32, u32)> = Vec::new();
    for id in ids {
        let Some((front, n)) = id.rsplit_once(':').and_then(|(f, n)| Some((f, n.parse().ok()?))) else {
            continue;
        };
        match out.last_mut().filter(|(f, _, last)| f == front && last + 1 == n) {
            Some((_, _, last)) => *last = n,
            None => out.push((front.to_owned(), n, n)),
        }
    }
    let one = |(front, a, b): &(String, u32, u32)| match a == b {
        true => format!("`{front}:{a}`"),
        false => format!("`{front}:{a}-{b}`"),
    };
    out.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// `a:bound:3-5` to its three ids.
fn expand(id: &str) -> Vec<String> {
    let whole = || vec![id.to_owned()];
    let Some((front, last)) = id.rsplit_once(':') else { return whole() };
    let Some((a, b)) = last.split_once('-') else { return whole() };
    match (a.parse::<u32>(), b.parse::<u32>()) {
        (Ok(a), Ok(b)) if a <= b && b - a < 10_000 => (a..=b).map(|n| format!("{front}:{n}")).collect(),
        _ => whole(),
    }
}
