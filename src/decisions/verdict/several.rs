//! What several name servers on one database say: one report, with those that are away.
//!
//! Each of them reports how it is itself. Whoever asks only the first is told "the database does not answer" when that one
//! alone is cut off from it, and hears nothing of a second one that has ended. So the command asks all of them.

use super::{Code, problems, trouble, word};
use crate::types::api::{Report, Severity};
use crate::types::{Error, Result};

/// The report of the first that reaches the database, and what is the matter with the others. Where none does, the first
/// report, or the first failure.
pub fn of_several(said: Vec<(String, Result<Report>)>) -> Result<Report> {
    let reaches = |report: &Result<Report>| report.as_ref().is_ok_and(reaches_database);
    let chosen = said.iter().position(|(_, report)| reaches(report));
    let chosen = chosen.or_else(|| said.iter().position(|(_, report)| report.is_ok())).unwrap_or(0);
    let (mut report, mut others) = (None, Vec::new());
    for (index, (url, one)) in said.into_iter().enumerate() {
        if index == chosen { report = Some(one) } else { others.push((url, one)) }
    }
    let mut report = report.unwrap_or_else(|| Err(Error::invalid("no name server is given")))?;
    if !reaches_database(&report) {
        return Ok(report);
    }
    for (url, other) in others {
        let (what, remedy) = match other {
            Ok(other) if reaches_database(&other) => continue,
            Ok(_) => (
                format!("the name server {url} does not reach the database, and another one does"),
                "make the database reachable for it, or stop it; clients that know the other one go on",
            ),
            Err(error) => (
                format!("the name server {url} does not answer, and another one does: {}", error.message()),
                "start it again (`systemctl start holdfast-name-server` on its machine), or take it out of the clients' and \
                 storage servers' lists; clients that know the other one go on",
            ),
        };
        report.troubles.push(trouble(Code::NameServerAway, Severity::Degraded, what, remedy));
    }
    // Stable: what was told first is told first among equals.
    report.troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.severity));
    report.verdict = word(&report.troubles).into();
    report.problems = problems(&report.troubles);
    Ok(report)
}

fn reaches_database(report: &Report) -> bool {
    report.troubles.iter().all(|trouble| trouble.code != Code::DatabaseUnreachable.word())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorCode;

    fn saying(version: i64, troubles: &[(Code, Severity)]) -> Result<Report> {
        let troubles: Vec<_> = troubles.iter().map(|(code, severity)| trouble(*code, *severity, "w", "r")).collect();
        Ok(Report { verdict: word(&troubles).into(), version, troubles, ..Report::default() })
    }

    fn told(said: Vec<Result<Report>>) -> Result<(String, i64, Vec<String>)> {
        let named = said.into_iter().enumerate().map(|(number, said)| (format!("http://n{number}"), said));
        let report = of_several(named.collect())?;
        let codes = report.troubles.iter().map(|trouble| trouble.code.clone()).collect();
        Ok((report.verdict, report.version, codes))
    }

    #[test]
    fn the_one_that_reaches_the_database_counts_and_the_others_are_named() {
        let cut = || saying(0, &[(Code::DatabaseUnreachable, Severity::Danger)]);
        let gone = || Err(Error::unavailable("http://n cannot be reached"));
        let draining = || saying(7, &[(Code::Draining, Severity::Notice)]);
        let away = "name_server_away";
        for (said, verdict, version, codes) in [
            (vec![saying(7, &[])], "healthy", 7, vec![]),
            (vec![saying(7, &[]), saying(8, &[])], "healthy", 7, vec![]),
            (vec![cut(), saying(7, &[])], "degraded", 7, vec![away]),
            (vec![gone(), draining(), cut()], "degraded", 7, vec![away, away, "draining"]),
            (vec![cut(), gone()], "danger", 0, vec!["database_unreachable"]),
            (vec![gone(), cut()], "danger", 0, vec!["database_unreachable"]),
        ] {
            let codes: Vec<String> = codes.into_iter().map(String::from).collect();
            assert_eq!(told(said).unwrap(), (verdict.to_string(), version, codes));
        }
        assert_eq!(told(vec![gone(), gone()]).unwrap_err().code(), ErrorCode::Unavailable);
        assert!(told(Vec::new()).is_err());
        let report = of_several(vec![("http://a".into(), gone()), ("http://b".into(), saying(1, &[]))]).unwrap();
        assert!(report.problems[0].contains("http://a does not answer"), "{:?}", report.problems);
    }
}
