use super::*;
use protocol::envelope::OperatorKind;

fn human(id: &str) -> Operator {
    Operator { kind: OperatorKind::Human, id: id.into(), originating_human_id: None }
}

fn decide(policy: &str, tool: &str, track: Track, operator: &Operator) -> Result<(), String> {
    // A Monday, ten o'clock.
    let now = Timestamp::parse("2026-01-05T10:00:00Z").unwrap();
    Policy::parse(policy).unwrap().decide(&Request { tool, track, operator, now })
}

#[test]
fn the_first_rule_that_fits_decides() {
    let policy = r#"
        default = "deny"
        [[rule]]
        effect = "allow"
        tools = ["text_*"]
        [[rule]]
        effect = "deny"
        tools = ["text_search"]
        [[rule]]
        effect = "allow"
        tools = ["echo"]
    "#;
    let alice = human("alice");
    let read = Track::DataProvider;
    assert_eq!(decide(policy, "text_search", read, &alice), Ok(()));
    assert_eq!(decide(policy, "echo", read, &alice), Ok(()));
    let denied = decide(policy, "uname", read, &alice).unwrap_err();
    assert!(denied.contains("default"), "{denied}");
}

#[test]
fn all_conditions_of_a_rule_have_to_fit() {
    let policy = r#"
        default = "deny"
        timezone = "UTC"
        [[rule]]
        effect = "allow"
        tools = ["sh"]
        tracks = ["mutator"]
        operators = ["alice@*"]
        during = ["Tue", "Mon 09:00-11:00"]
    "#;
    let alice = human("alice@example");
    assert_eq!(decide(policy, "sh", Track::Mutator, &alice), Ok(()));
    assert!(decide(policy, "echo", Track::Mutator, &alice).is_err());
    assert!(decide(policy, "sh", Track::DataProvider, &alice).is_err());
    assert!(decide(policy, "sh", Track::Mutator, &human("bob@example")).is_err());
    let later = policy.replace("09:00-11:00", "11:00-12:00");
    assert!(decide(&later, "sh", Track::Mutator, &alice).is_err());
}

#[test]
fn the_human_behind_an_agent_counts_too() {
    let policy =
        "default = 'allow'\n[[rule]]\neffect = 'deny'\noperators = ['mallory']\nreason = 'left'";
    let agent = Operator {
        kind: OperatorKind::Agent,
        id: "robot".into(),
        originating_human_id: Some("mallory".into()),
    };
    let denied = decide(policy, "echo", Track::DataProvider, &agent).unwrap_err();
    assert!(denied.contains("rule 1: left"), "{denied}");
    assert_eq!(decide(policy, "echo", Track::DataProvider, &human("robot")), Ok(()));
}

#[test]
fn without_a_file_everything_is_allowed() {
    let operator = human("x");
    let now = Timestamp::from_millis(0);
    let request = Request { tool: "sh", track: Track::Mutator, operator: &operator, now };
    assert_eq!(Policy::allow_all().decide(&request), Ok(()));
}

#[test]
fn what_is_not_understood_is_refused() {
    let bad = [
        "",
        "default = 'maybe'",
        "default = 'deny'\nx = 1",
        "default = 'deny'\n[[rule]]\ntools = ['a']",
        "default = 'deny'\n[[rule]]\neffect = 'allow'\ntool = ['a']",
        "default = 'deny'\n[[rule]]\neffect = 'allow'\ntools = []",
        "default = 'deny'\n[[rule]]\neffect = 'allow'\ntracks = ['writer']",
        "default = 'deny'\n[[rule]]\neffect = 'allow'\nduring = ['noon']",
        "default = 'deny'\ntimezone = 'Mars/Olympus'",
    ];
    for text in bad {
        assert!(Policy::parse(text).is_err(), "{text:?}");
    }
}
