//! Misspelt names of settings, which would otherwise be ignored silently.

use super::table::{SETTINGS, Setting};

const OURS: &str = "OVERDUE_";

/// An environment variable whose name is nearly that of a setting's variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {name} is not a setting: did you mean {closest}?")]
pub struct Slip {
    name: String,
    /// The variable that was probably meant.
    closest: &'static str,
}

/// The most letters that may be wrong, missing, extra or swapped in a misspelt name.
const SLIPS: usize = 2;

/// Variables that begin with `OVERDUE_` and belong to no setting. They are not an error: Kubernetes, for one, sets such
/// variables for a service called `overdue`.
///
/// # Errors
/// When the name of one is close to a setting's variable.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Result<Vec<String>, Slip> {
    let of_setting = |setting: &Setting, name: &str| {
        setting.env == name || setting.file_env().is_some_and(|variable| variable == name)
    };
    let known =
        |name: &str| name == "OVERDUE_CONFIG" || SETTINGS.iter().any(|setting| of_setting(setting, name));
    let unknown = names.filter(|name| name.starts_with(OURS) && !known(name));
    let mut others = Vec::new();
    for name in unknown {
        // OVERDUE_ before a setting's name counts too: the variables DATABASE_URL and AMQP_URL have no prefix.
        let by_name = |setting: &'static Setting| {
            let rest = name.strip_prefix(OURS).map(|rest| rest.strip_suffix("_FILE").unwrap_or(rest));
            rest.is_some_and(|rest| rest.eq_ignore_ascii_case(setting.name))
        };
        let meant = SETTINGS.iter().find(|setting| by_name(setting)).map(|setting| setting.env);
        match meant.or_else(|| closest(&name, |setting| setting.env)) {
            Some(closest) => return Err(Slip { name, closest }),
            None => others.push(name),
        }
    }
    Ok(others)
}

/// The setting's name or variable (see `of`) that is nearest to this name, within [`SLIPS`].
pub(super) fn closest(name: &str, of: impl Fn(&'static Setting) -> &'static str) -> Option<&'static str> {
    let near = SETTINGS.iter().map(|setting| (strsim::osa_distance(name, of(setting)), of(setting)));
    near.filter(|(distance, _)| *distance <= SLIPS).min().map(|(_, name)| name)
}

/// The setting whose name is nearest to this name, however far away.
pub(super) fn nearest(name: &str) -> &'static str {
    let by_distance = |setting: &&Setting| strsim::osa_distance(name, setting.name);
    SETTINGS.iter().min_by_key(by_distance).map_or("", |setting| setting.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_refused_and_what_is_nothing_like_a_setting_is_not() {
        let of = |names: &[&str]| unknown_variables(names.iter().map(|name| (*name).to_owned()));
        for (name, closest) in [
            ("OVERDUE_LANE", "OVERDUE_LANES"),
            ("OVERDUE_LAED", "OVERDUE_LEAD"),
            ("OVERDUE_CLOSE_BATCHS", "OVERDUE_CLOSE_BATCH"),
            ("OVERDUE_DATABASE_URL", "DATABASE_URL"),
            ("OVERDUE_AMQP_URL", "AMQP_URL"),
        ] {
            let error = of(&["HOME", name]).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(&format!("mean {closest}?")), "{error}");
        }
        for setting in SETTINGS {
            let file_env = setting.file_env().unwrap_or_default();
            assert_eq!(of(&[setting.env, &file_env, "OVERDUE_CONFIG"]), Ok(Vec::new()));
        }
        let kubernetes = ["OVERDUE_PORT", "OVERDUE_SERVICE_HOST", "OVERDUE_PORT_8080_TCP_ADDR"];
        assert_eq!(of(&kubernetes), Ok(kubernetes.map(str::to_owned).to_vec()));
        assert_eq!(closest("leed", |setting| setting.name), Some("lead"));
        assert_eq!(nearest("max_held_orders"), "max_in_flight_orders");
    }
}
