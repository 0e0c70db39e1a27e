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
    /// A finding's kind, `wrong result`, `hang`, `refused`, `crash`, `survivor` or `not run`.
    pub detector: String,
    /// The kinds of all findings that were there when it was found.
    pub findings: Vec<String>,
    /// The first line of what was found.
    pub message: String,
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
        self.outcomes.iter().filter(|o| o.detector == "survivor")
    }

    /// Whether this mutant was found by findings of this check and nothing else.
    pub fn only_found_by(&self, id: &str, check: &str) -> bool {
        let check = if check == "lane-race" { "race" } else { check };
        let found = self.outcomes.iter().find(|o| o.id == id);
        found.is_some_and(|o| !o.findings.is_empty() && o.findings.iter().all(|f| f == check))
    }

    /// Adds another table's outcomes.
    pub fn extend(&mut self, other: Table) {
        self.outcomes.extend(other.outcomes);
    }

    /// Counts by kind and detector.
    pub fn counts(&self) -> BTreeMap<Kind, BTreeMap<&str, usize>> {
        let mut counts: BTreeMap<Kind, BTreeMap<&str, usize>> = BTreeMap::new();
        for o in &self.outcomes {
            *counts.entry(o.kind).or_default().entry(&o.detector).or_default() += 1;
        }
        counts
    }

    /// The counts as a table in Markdown: a row for each kind, a column for each detector.
    pub fn to_text(&self) -> String {
        let counts = self.counts();
        let columns: BTreeSet<&str> = self.outcomes.iter().map(|o| o.detector.as_str()).collect();
        let mut text = String::from("| broken | mutants |");
        columns.iter().for_each(|c| text += &format!(" {c} |"));
        text += "\n| --- | --- |";
        columns.iter().for_each(|_| text += " --- |");
        text += "\n";
        let row = |name: &str, of: &dyn Fn(&str) -> usize| {
            let total: usize = columns.iter().map(|c| of(c)).sum();
            let cells: String = columns.iter().map(|c| format!(" {} |", of(c))).collect();
            format!("| {name} | {total} |{cells}\n")
        };
        for (kind, by) in &counts {
            text += &row(kind.name(), &|c| by.get(c).copied().unwrap_or(0));
        }
        text += &row("all", &|c| self.outcomes.iter().filter(|o| o.detector == c).count());
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
        let found = |id: &&String| {
            table.outcomes.iter().any(|o| o.id == **id && o.detector != "survivor" && o.detector != "not run")
        };
        self.reasons.keys().filter(found).cloned().collect()
    }
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
