//! What a verification reports: what it looked at, what it found, and what it could not see.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::finding::Finding;

pub mod database;

/// Everything that a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many findings are fine.
    pub fine: usize,
    /// How many differ.
    pub differs: usize,
    /// How many could not be seen.
    pub cannot_tell: usize,
    /// All of them, in the order in which they were made.
    pub findings: Vec<Finding>,
}

impl Report {
    #[must_use]
    pub fn new(findings: Vec<Finding>) -> Self {
        let count = |is: fn(&Finding) -> bool| findings.iter().filter(|finding| is(finding)).count();
        let (differs, cannot_tell) = (count(Finding::is_different), count(Finding::is_hidden));
        Self { fine: findings.len() - differs - cannot_tell, differs, cannot_tell, findings }
    }

    /// What was looked at: each group of places with the parts of them that were looked at.
    #[must_use]
    pub fn looked_at(&self) -> Vec<(Vec<&str>, Vec<&str>)> {
        let mut places: Vec<(&str, Vec<&str>)> = Vec::new();
        for finding in self.findings.iter().filter(|finding| !finding.is_hidden()) {
            let at = places.iter().position(|(place, _)| *place == finding.place);
            let at = at.unwrap_or_else(|| {
                places.push((&finding.place, Vec::new()));
                places.len() - 1
            });
            if !places[at].1.contains(&finding.what.as_str()) {
                places[at].1.push(&finding.what);
            }
        }
        let mut groups: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
        for (place, parts) in places {
            let same = |others: &Vec<&str>| {
                others.iter().collect::<BTreeSet<_>>() == parts.iter().collect::<BTreeSet<_>>()
            };
            match groups.iter_mut().find(|(_, others)| same(others)) {
                Some((group, _)) => group.push(place),
                None => groups.push((vec![place], parts)),
            }
        }
        groups
    }
}
