//! What `overdue verify` and `overdue topology verify` report.

use serde::Deserialize;

use super::world::World;

/// Place, part, and problem or what hid it.
pub type Trouble = (String, String, String);

#[derive(Deserialize)]
struct Report {
    fine: usize,
    differs: usize,
    cannot_tell: usize,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    place: String,
    what: String,
    outcome: String,
    problem: Option<String>,
    why: Option<String>,
    remedy: Option<String>,
}

impl World {
    /// Exit code of a verification, and whatever is not fine.
    pub async fn verify(&self, arguments: &[&str]) -> (i32, Vec<Trouble>) {
        let (code, found, error) = self.run(&[arguments, &["--json"]].concat()).await;
        let report: Report = serde_json::from_str(&found).unwrap_or_else(|_| panic!("{found} {error}"));
        let many =
            |outcome: &str| report.findings.iter().filter(|finding| finding.outcome == outcome).count();
        let counted = (report.fine, report.differs, report.cannot_tell);
        assert_eq!(counted, (many("fine"), many("differs"), many("cannot_tell")), "{found}");
        let expected = match counted {
            (_, 0, 0) => 0,
            (_, 0, _) => 5,
            _ => 4,
        };
        assert_eq!(code, expected, "{found}");
        let trouble = |finding: Finding| {
            if finding.outcome == "fine" {
                return None;
            }
            assert!(finding.remedy.is_some_and(|remedy| !remedy.is_empty()), "{}", finding.place);
            Some((finding.place, finding.what, finding.problem.or(finding.why).expect("a text")))
        };
        (code, report.findings.into_iter().filter_map(trouble).collect())
    }
}
