//! What changes lead from one set of definitions to another, and which are refused.

use proptest::prelude::*;

use super::*;
use crate::registry::tests::{SHOP, apply_toml, plan_toml, registry_of};

const P: ProjectId = ProjectId(0);
const USER: &str = "[entity.user]\njoin_keys = [\"user_id\"]\n";

fn view(name: &str, rest: &str) -> String {
    format!("[view.\"{name}\"]\nentity = \"user\"\n{rest}\n")
}

#[test]
fn the_same_content_again_changes_nothing() {
    let registry = registry_of(SHOP);
    let planned = plan_toml(&registry, SHOP, Absent::Drop);
    assert!(planned.changes.is_empty() && planned.errors.is_empty(), "{planned:#?}");
    assert!(planned.warnings.is_empty(), "known before");
}

#[test]
fn alterations_keep_ids_and_say_what_they_are() {
    let before = format!("{USER}{}", view("v", "ttl = \"90d\"\nfeatures.a = \"int32\""));
    let check = |after: &str, expected: &str| {
        let mut registry = registry_of(&before);
        let id = registry.find_view(P, "v", None).unwrap().id;
        let texts = apply_toml(&mut registry, &format!("{USER}{after}"), Absent::Keep);
        assert_eq!(texts, [expected]);
        assert_eq!(registry.find_view(P, "v", None).unwrap().id, id);
        assert!(apply_toml(&mut registry, &format!("{USER}{after}"), Absent::Keep).is_empty());
    };
    check(
        &view("v", "ttl = \"90d\"\nfeatures.x = \"float64\"\nfeatures.a = \"int32\""),
        "~ view v: + feature x float64",
    );
    check(
        &view("v", "owner = \"o\"\ntags = [\"t\"]\nretention = \"1d\"\nfeatures.a = \"int32\""),
        "~ view v: ttl 90d -> none, retention none -> 1d, owner none -> o, tags",
    );
    check(
        &view("v", "ttl = \"90d\"\nfeatures.a = { type = \"int32\", default = 1, ttl = \"1h\" }"),
        "~ view v: feature a (default none -> 1, ttl none -> 1h)",
    );
    check(
        &view("v", "ttl = \"90d\"\noffline = false\nfeatures.a = \"int32\""),
        "~ view v: offline true -> false",
    );
}

#[test]
fn new_features_take_the_next_slots_wherever_they_are_written() {
    let mut registry = registry_of(&format!("{USER}{}", view("v", "features.b = \"int32\"")));
    let more = "features.a = \"bool\"\nfeatures.b = \"int32\"\nfeatures.c = \"string\"";
    apply_toml(&mut registry, &format!("{USER}{}", view("v", more)), Absent::Keep);
    let view = registry.find_view(P, "v", None).unwrap();
    let names: Vec<_> = view.features.iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
}

#[test]
fn incompatible_changes_say_to_add_a_version() {
    let before = format!(
        "{USER}[entity.m]\njoin_keys = [\"m\"]\n{}{}",
        view("v", "online = false\nfeatures.a = \"int32\"\nfeatures.b = \"bool\""),
        view("v@2", "offline = false\nfeatures.a = \"int64\""),
    );
    let registry = registry_of(&before);
    let check = |text: &str, line: usize, fragment: &str| {
        let planned = plan_toml(&registry, text, Absent::Keep);
        assert!(planned.changes.is_empty(), "{planned:#?}");
        assert_eq!(planned.errors.len(), 1, "{planned:#?}");
        let error = &planned.errors[0];
        assert_eq!(error.code().as_str(), "INCOMPATIBLE_DEFINITION");
        assert_eq!(error.place.to_string(), format!("t.toml:{line}"));
        assert!(error.message.contains(fragment), "{error}");
    };
    let add = "; add a version: [view.\"v@3\"]";
    let v1 = |rest: &str| view("v", &format!("online = false\n{rest}"));
    check(
        &v1("features.a = \"int64\"\nfeatures.b = \"bool\""),
        4,
        &format!("the type of feature a cannot change from int32 to int64{add}"),
    );
    check(&v1("features.a = \"int32\""), 1, &format!("feature b cannot be removed{add}"));
    check(
        "[view.v]\nonline = false\nentity = \"m\"\nfeatures = { a = \"int32\", b = \"bool\" }",
        3,
        &format!("its entity cannot change from user to m{add}"),
    );
    check(
        &v1("tier = \"disk\"\nfeatures.a = \"int32\"\nfeatures.b = \"bool\""),
        1,
        &format!("its tier cannot change yet from memory to disk{add}"),
    );
    check(
        &view("v", "features.a = \"int32\"\nfeatures.b = \"bool\""),
        1,
        "online cannot become true",
    );
    check(&view("v@2", "features.a = \"int64\""), 1, "offline cannot become true");
    check(
        "[entity.user]\njoin_keys = [\"user_id:int64\"]",
        1,
        "join keys cannot change from user_id to user_id:int64; define another entity",
    );
}

#[test]
fn definitions_without_mistakes_can_be_applied_beside_those_with() {
    let registry = registry_of(&format!("{USER}{}", view("v", "features.a = \"int32\"")));
    let text =
        format!("{}{}", view("v", "features.a = \"int64\""), view("w", "features.b = \"bool\""));
    let planned = plan_toml(&registry, &text, Absent::Keep);
    assert_eq!(planned.errors.len(), 1);
    assert_eq!(planned.changes.len(), 1);
    assert_eq!(planned.changes[0].text, "+ view w (1 feature)");
    assert!(planned.accept().is_err());
}

#[test]
fn the_first_version_is_the_default_until_said_otherwise() {
    let both = format!(
        "{USER}{}{}",
        view("v@2", "features.a = \"int64\""),
        view("v", "features.a = \"int32\"")
    );
    let mut registry = registry_of(&both);
    assert_eq!(registry.default_version(P, "v"), Some(1));
    let texts = apply_toml(
        &mut registry,
        &view("v", "default_version = 2\nfeatures.a = \"int32\""),
        Absent::Keep,
    );
    assert_eq!(texts, ["~ view v: default version 1 -> 2"]);
    assert_eq!(registry.view_named(P, "v").unwrap().version, 2);
    assert!(apply_toml(&mut registry, &both, Absent::Keep).is_empty(), "not said: unchanged");
}

#[test]
fn services_keep_what_they_resolved_to() {
    let service = "[service.s]\nfeatures = [\"v:a\"]\n";
    let both = format!(
        "{USER}{}{}",
        view("v", "features.a = \"int32\""),
        view("v@2", "default_version = 2\nfeatures.a = \"int64\"")
    );
    let mut registry =
        registry_of(&format!("{USER}{}{service}", view("v", "features.a = \"int32\"")));
    let texts = apply_toml(&mut registry, &format!("{both}{service}"), Absent::Keep);
    assert_eq!(texts, ["+ view v@2 (1 feature)", "~ view v: default version 1 -> 2"]);
    let version = |registry: &Registry| {
        let service = registry.find_service(P, "s").unwrap();
        registry.view(service.features[0].view).unwrap().version
    };
    assert_eq!(version(&registry), 1);
    let pinned = "[service.s]\nfeatures = [{ ref = \"v@2:a\", as = \"a\" }]\n";
    let texts = apply_toml(&mut registry, &format!("{both}{pinned}"), Absent::Keep);
    assert_eq!(texts, ["~ service s: + feature a, - feature v:a"]);
    assert_eq!(version(&registry), 2);
}

#[test]
fn nothing_is_dropped_unless_asked_for() {
    let registry = registry_of(SHOP);
    assert!(plan_toml(&registry, USER, Absent::Keep).changes.is_empty());
    let texts = |text: &str| -> Vec<String> {
        let (changes, _) = plan_toml(&registry, text, Absent::Drop).accept().unwrap();
        changes.into_iter().map(|planned| planned.text).collect()
    };
    let expected = [
        "- service credit",
        "- view merchant_risk",
        "- view merchant_size",
        "- view user_profile@2",
        "- view user_risk",
        "- view user_profile",
        "- entity merchant",
    ];
    let mut found = texts(USER);
    assert_eq!(found[0], expected[0]);
    assert_eq!(found.last().unwrap(), expected[6]);
    found.sort_unstable();
    let mut expected = expected.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(texts("project = \"other\"").iter().eq(["+ project other"]), "only its own project");
}

#[test]
fn a_remaining_version_becomes_the_default_before_the_default_is_dropped() {
    let mut registry = registry_of(&format!(
        "{USER}{}{}",
        view("v", "features.a = \"int32\""),
        view("v@2", "features.a = \"int64\"")
    ));
    let rest = format!("{USER}{}", view("v@2", "features.a = \"int64\""));
    let texts = apply_toml(&mut registry, &rest, Absent::Drop);
    assert_eq!(texts, ["~ view v: default version 1 -> 2", "- view v"]);
    assert_eq!(registry.view_named(P, "v").unwrap().version, 2);
}

#[test]
fn a_version_that_would_be_dropped_cannot_be_the_default() {
    let registry = registry_of(&format!("{USER}{}", view("v", "features.a = \"int32\"")));
    let text = format!("{USER}{}", view("v@2", "default_version = 1\nfeatures.a = \"bool\""));
    let planned = plan_toml(&registry, &text, Absent::Drop);
    assert_eq!(planned.errors.len(), 1, "{planned:#?}");
    let expected = "t.toml:5: default_version: view \"v\" has no version 1";
    assert_eq!(planned.errors[0].to_string(), expected);
    assert!(planned.changes.iter().all(|planned| !planned.text.starts_with('-')), "{planned:#?}");
}

#[test]
fn what_is_in_use_is_not_dropped() {
    let before =
        format!("{USER}{}[service.s]\nfeatures = [\"v:a\"]", view("v", "features.a = \"int32\""));
    let registry = registry_of(&before);
    let check = |text: &str, expected: &str| {
        let planned = plan_toml(&registry, text, Absent::Drop);
        assert_eq!(planned.errors.len(), 1, "{planned:#?}");
        assert_eq!(planned.errors[0].code().as_str(), "IN_USE");
        assert!(planned.errors[0].to_string().starts_with(expected), "{planned:#?}");
    };
    check(
        &format!("{USER}[service.s]\nfeatures = [\"v:a\"]"),
        "t.toml:4: view \"v\" is not in the definitions and cannot be dropped: service \"s\"",
    );
    check(
        &view("v", "features.a = \"int32\""),
        "t.toml:2: entity \"user\" is not in the definitions and cannot be dropped",
    );
}

#[test]
fn ambiguous_names_are_warned_of_once() {
    let first = format!("{USER}{}", view("v", "features.a = \"int32\""));
    let both = format!("{first}{}", view("w", "features.a = \"bool\""));
    let mut registry = registry_of(&first);
    let expected = "feature \"a\" of entity \"user\" is in views v, w; asked for without its view \
                    it is refused as ambiguous";
    assert_eq!(plan_toml(&registry, &both, Absent::Keep).warnings, [expected]);
    apply_toml(&mut registry, &both, Absent::Keep);
    assert!(plan_toml(&registry, &both, Absent::Keep).warnings.is_empty());
}

#[test]
fn projects_are_apart() {
    let mut registry = registry_of(USER);
    let other = "project = \"other\"\n[entity.user]\njoin_keys = [\"other_id\"]";
    let texts = apply_toml(&mut registry, other, Absent::Keep);
    assert_eq!(texts, ["+ project other", "+ entity user (other_id)"]);
    let project = registry.project_named("other").unwrap();
    let key = |project| registry.find_entity(project, "user").unwrap().join_keys[0].name.clone();
    assert_eq!((key(P), key(project)), ("user_id".to_owned(), "other_id".to_owned()));
    assert_eq!(registry.project_name(project), Some("other"));
}

/// A definition text: which features (by type) each version of two views has, and what one service
/// asks for.
#[derive(Clone, Debug)]
struct Text {
    views: BTreeMap<(usize, u32), Vec<(usize, usize)>>,
    default: Option<(usize, u32)>,
    service: Vec<(usize, u32, usize)>,
    ttl: i64,
}

fn texts() -> impl Strategy<Value = Text> {
    let features = prop::collection::vec((0..4_usize, 0..3_usize), 1..4);
    let views = prop::collection::btree_map((0..2_usize, 1..3_u32), features, 0..4);
    let service = prop::collection::vec((0..2_usize, 0..3_u32, 0..4_usize), 0..3);
    (views, prop::option::of((0..2_usize, 1..3_u32)), service, 1..3_i64)
        .prop_map(|(views, default, service, ttl)| Text { views, default, service, ttl })
}

impl Text {
    fn toml(&self) -> String {
        let mut text = USER.to_owned();
        let mut default = self.default;
        for ((name, version), features) in &self.views {
            text += &format!("[view.\"v{name}@{version}\"]\nentity = \"user\"\n");
            text += &format!("ttl = \"{}d\"\n", self.ttl);
            if let Some((_, version)) = default.take_if(|default| default.0 == *name) {
                text += &format!("default_version = {version}\n");
            }
            let features: BTreeMap<_, _> = features.iter().copied().collect();
            for (feature, kind) in features {
                text +=
                    &format!("features.f{feature} = \"{}\"\n", ["bool", "int32", "bytes"][kind]);
            }
        }
        let references: BTreeSet<String> = self
            .service
            .iter()
            .map(|(name, version, feature)| match version {
                0 => format!("\"v{name}:f{feature}\""),
                version => format!("\"v{name}@{version}:f{feature}\""),
            })
            .collect();
        if !references.is_empty() {
            let references: Vec<String> = references.into_iter().collect();
            text += &format!("[service.s]\nfeatures = [{}]\n", references.join(", "));
        }
        text
    }
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing_more(
        steps in prop::collection::vec((texts(), any::<bool>()), 1..6),
    ) {
        let mut registry = Registry::new();
        for (text, drop) in steps {
            let absent = if drop { Absent::Drop } else { Absent::Keep };
            let toml = text.toml();
            // What has no mistake is applied, as at start.
            let planned = plan_toml(&registry, &toml, absent);
            for planned in &planned.changes {
                registry.apply(&planned.change).unwrap();
            }
            let again = plan_toml(&registry, &toml, absent);
            prop_assert_eq!(&again.changes, &[], "{}", toml);
            // The next free version that an error names may have been taken meanwhile.
            let places = |planned: &Planned| -> Vec<_> {
                planned.errors.iter().map(|error| (error.place.clone(), error.kind)).collect()
            };
            prop_assert_eq!(places(&again), places(&planned));
            let snapshot = registry.to_snapshot();
            prop_assert_eq!(&Registry::from_snapshot(&snapshot).unwrap(), &registry);
        }
    }
}
