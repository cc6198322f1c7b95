//! Definitions as TOML and JSON write them, and every mistake in them.

use super::*;
use crate::registry::changes::{Absent, diff};
use crate::registry::{ProjectId, Registry};

/// The example of API.md without the parts of later issues, and what it refers to.
const EXAMPLE: &str = r#"
project = "default"

[entity.user]
join_keys = ["user_id"]
description = "A registered customer"

[entity.merchant]
join_keys = ["merchant_id"]

[entity.route]
join_keys = ["origin", "dest"]

[view.user_profile]
entity = "user"
ttl = "90d"
freshness = "1d"
online = true
offline = true
tier = "memory"
retention = "365d"
tags = ["demographics"]
owner = "risk-team"
[view.user_profile.features]
age = "int32"
country = { type = "string", default = "unknown", description = "ISO 3166-1 alpha-2" }
balance = { type = "float64", ttl = "1h", freshness = "5m", owner = "ledger-team", tags = ["realtime"] }
embedding = "float32[384]"

[view."user_profile@2"]
entity = "user"
features = { age = "int64" }

[view.merchant_risk]
entity = "merchant"
features = { score = "float64" }

[service.credit_decision]
features = ["user_profile:age", "user_profile:country", { ref = "merchant_risk:score", as = "merchant_score" }]
"#;

/// Definitions that make single lines below complete.
const BASE: &str = "[entity.user]\njoin_keys = [\"user_id\"]\n";

#[test]
fn the_documented_example_reads_and_applies() {
    let definitions = Definitions::parse_toml("example.toml", EXAMPLE).unwrap();
    assert_eq!(definitions.entities.len(), 3);
    assert_eq!(definitions.views.len(), 3);
    let profile = &definitions.views[0];
    let names: Vec<_> = profile.features.iter().map(|f| f.value.name.as_str()).collect();
    assert_eq!(names, ["age", "country", "balance", "embedding"], "in the order declared");
    assert_eq!(profile.retention.unwrap().to_string(), "365d");
    assert_eq!(definitions.views[1].version, 2);
    assert_eq!(profile.place.to_string(), "example.toml:14");
    let planned = diff(&Registry::new(), &definitions, Absent::Keep);
    let (changes, warnings) = planned.accept().unwrap();
    let texts: Vec<_> = changes.iter().map(|change| change.text.as_str()).collect();
    let expected = [
        "+ entity user (user_id)",
        "+ entity merchant (merchant_id)",
        "+ entity route (origin, dest)",
        "+ view user_profile (4 features)",
        "+ view merchant_risk (1 feature)",
        "+ view user_profile@2 (1 feature)",
        "+ service credit_decision (3 features)",
    ];
    assert_eq!(texts, expected);
    assert!(warnings.is_empty());
}

#[test]
fn definitions_survive_the_way_through_json() {
    let definitions = Definitions::parse_toml("example.toml", EXAMPLE).unwrap();
    let trees = definitions.to_json();
    assert_eq!(trees.len(), 1);
    let body = trees[0].1.to_string();
    let back = Definitions::parse_json(body.as_bytes(), "elsewhere").unwrap();
    let applied = |definitions: &Definitions| {
        let (changes, _) = diff(&Registry::new(), definitions, Absent::Keep).accept().unwrap();
        changes
    };
    assert_eq!(applied(&back), applied(&definitions));
    assert_eq!(trees[0].0, "default");
}

#[test]
fn a_body_belongs_to_the_project_of_the_request_unless_it_says_otherwise() {
    let project = |body: &str| Definitions::parse_json(body.as_bytes(), "tenant").unwrap().projects;
    assert_eq!(project("{}"), ["tenant".into()]);
    assert_eq!(project("{\"project\":\"p\"}"), ["p".into()]);
}

/// Every mistake of a TOML text, resolved against nothing.
fn mistakes(text: &str) -> Vec<String> {
    let errors = match Definitions::parse_toml("d.toml", text) {
        Err(errors) => errors,
        Ok(definitions) => {
            let planned = diff(&Registry::new(), &definitions, Absent::Keep);
            planned.accept().expect_err(text)
        }
    };
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn bad_definitions_name_line_and_mistake() {
    let check = |text: &str, line: usize, fragment: &str| {
        let found = mistakes(text);
        let place = format!("d.toml:{line}: ");
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert!(found[0].starts_with(&place) && found[0].contains(fragment), "{text}\n{found:#?}");
    };
    let view = |rest: &str, line: usize, fragment: &str| {
        // Line 3 is the section, line 4 the entity, line 5 the first of `rest`.
        check(&format!("{BASE}[view.v]\nentity = \"user\"\n{rest}"), line, fragment);
    };
    let feature = |written: &str, fragment: &str| {
        view(&format!("features.f = {written}"), 5, fragment);
    };

    // The text as a whole.
    check("[view.v", 1, "not valid TOML");
    check("\n\n[view.v@2]", 3, "not valid TOML");
    check("x = 1", 1, "unknown key \"x\" in definitions; valid: project, entity, view, service");
    check("[views.v]", 1, "did you mean \"view\"?");
    check("project = 5", 1, "project: found 5, expected a string");
    check("project = \"my-project\"", 1, "bad name \"my-project\" of project");
    check("entity = 1", 1, "entity: found 1, expected a table");
    check("view = []", 1, "view: found an array, expected a table");
    check("\n[stream.s]", 2, "\"stream\" in definitions is not supported yet");
    check("\n[transformation.t]", 2, "not supported yet by this version");
    check("\n[rollout.r]\n1 = 0.5", 2, "not supported yet by this version");

    // Entities.
    check("[entity.u]\ndescription = \"\"", 1, "entity \"u\" needs join_keys");
    check("[entity.u]\njoin_keys = []", 2, "0 join keys, there must be 1 to 16");
    check("[entity.u]\njoin_keys = \"id\"", 2, "found \"id\", expected an array of strings");
    check("[entity.u]\njoin_keys = [\"id\", \"id\"]", 2, "join key \"id\" stands twice");
    check("[entity.u]\njoin_keys = [\n\"a\",\n\"b:int8\"]", 4, "\"int8\" is not a join key type");
    check("[entity.u]\njoin_keys = [\"1d\"]", 2, "bad name \"1d\" of a join key");
    check("[entity.u]\njoin_keys = [\"event_timestamp\"]", 2, "cannot be named");
    check("[entity.u]\njoin_key = [\"a\"]\njoin_keys = [\"a\"]", 2, "did you mean \"join_keys\"?");
    check("[entity.batch]\njoin_keys = [\"a\"]", 1, "\"batch\" is reserved");
    check("[entity.\"a b\"]\njoin_keys = [\"a\"]", 1, "bad name \"a b\" of an entity");
    check("[entity.\"u@2\"]\njoin_keys = [\"a\"]", 1, "bad name \"u@2\" of an entity");
    check("[entity.u]\njoin_keys = [\"a\"]\ntags = \"x\"", 3, "tags: found \"x\"");
    check("[entity.u]\njoin_keys = [\"a\"]\nowner = true", 3, "owner: found true");
    let long = format!("[entity.{}]\njoin_keys = [\"a\"]", "x".repeat(129));
    check(&long, 1, "at most 128 bytes");
    let many: Vec<String> = (0..17).map(|n| format!("\"k{n}\"")).collect();
    check(&format!("[entity.u]\njoin_keys = [{}]", many.join(",")), 2, "17 join keys");

    // Views.
    check("[view.v]\nfeatures.a = \"bool\"", 1, "view \"v\" needs an entity");
    check("[view.v]\nentity = \"u\"\nfeatures.a = \"bool\"", 2, "unknown entity type \"u\"");
    check(
        &format!("{BASE}[view.v]\nentity = \"usr\"\nfeatures.a = \"bool\""),
        4,
        "did you mean \"user\"?",
    );
    view("", 3, "view \"v\" needs at least one feature");
    view("features = {}", 3, "needs at least one feature");
    view("features = [\"a\"]", 5, "features: found an array, expected a table");
    view("features.a = \"bool\"\nttl = \"5 days\"", 6, "ttl: \"5 days\" is not a duration");
    view("features.a = \"bool\"\nttl = 90", 6, "ttl: found 90, expected a string");
    view("features.a = \"bool\"\nttl = \"0s\"", 6, "ttl must be longer than 0s");
    view("features.a = \"bool\"\nfreshness = \"1y\"", 6, "freshness: \"1y\"");
    view("features.a = \"bool\"\nretention = \"\"", 6, "retention: \"\"");
    view(
        "features.a = \"bool\"\ntier = \"dsk\"",
        6,
        "unknown tier \"dsk\"; did you mean \"disk\"?",
    );
    view("features.a = \"bool\"\nonline = \"yes\"", 6, "online: found \"yes\", expected true or");
    view("features.a = \"bool\"\nonline = false\noffline = false", 3, "neither online nor offline");
    view("features.a = \"bool\"\nttt = \"1d\"", 6, "did you mean \"ttl\"?");
    view("features.a = \"bool\"\nstream = \"s\"", 6, "\"stream\" in view \"v\" is not supported");
    view("features.a = \"bool\"\ndefault_version = 0", 6, "expected a version number from 1");
    view("features.a = \"bool\"\ndefault_version = \"2\"", 6, "expected a version number");
    view("features.a = \"bool\"\ndefault_version = 2", 6, "view \"v\" has no version 2");
    view("features.a = \"bool\"\n[view.\"v@0\"]\nentity = \"user\"", 6, "bad version in view");
    view("features.a = \"bool\"\n[view.\"v@x\"]\nentity = \"user\"", 6, "bad version in view");
    view(
        "features.a = \"bool\"\n[view.push]\nentity = \"user\"\nfeatures.a = \"bool\"",
        6,
        "reserved",
    );
    view(
        "features.a = \"bool\"\n[view.\"v@1\"]\nentity = \"user\"\nfeatures.a = \"bool\"",
        6,
        "view \"v\" is defined twice, first at d.toml:3",
    );

    // Features.
    feature("5", "f: found 5, expected a type");
    feature("\"int\"", "\"int\" is not a type");
    feature("\"flaot64\"", "did you mean \"float64\"?");
    feature("\"float32[0]\"", "\"float32[0]\" is not a type");
    feature("{ default = 1 }", "feature \"f\" needs a type");
    feature("{ type = 32 }", "type: found 32, expected a string");
    feature("{ type = \"int32\", defualt = 1 }", "did you mean \"default\"?");
    feature("{ type = \"int32\", default = \"1\" }", "found \"1\", expected int32");
    feature("{ type = \"int32\", default = 2147483648 }", "found 2147483648, expected int32");
    feature("{ type = \"float64\", default = nan }", "found nan, expected float64");
    feature("{ type = \"float32\", default = 1e39 }", "expected float32");
    feature("{ type = \"string\", default = false }", "found false, expected string");
    feature("{ type = \"float32[2]\", default = [1.0] }", "an array of 1 elements");
    feature("{ type = \"int32[]\", default = [1, \"b\"] }", "at element 1");
    feature("{ type = \"bool\", default = { a = 1 } }", "expected bool");
    feature("{ type = \"int32\", ttl = \"1\" }", "ttl: \"1\" is not a duration");
    feature("{ aggregate = \"count\" }", "\"aggregate\" in feature \"f\" is not supported yet");
    feature("{ type = \"int32\", expression = \"1\" }", "\"expression\" in feature \"f\" is not");
    view("features.\"a:b\" = \"bool\"", 5, "bad name \"a:b\" of a feature");
    view("features.event_timestamp = \"timestamp\"", 5, "cannot be named \"event_timestamp\"");
    view("features.user_id = \"string\"", 5, "has the name of a join key of entity \"user\"");

    // Services. Line 6 is the section, line 7 the features.
    let service = |features: &str, fragment: &str| {
        let rest = format!("features.a = \"bool\"\n[service.s]\nfeatures = {features}");
        view(&rest, 7, fragment);
    };
    view("features.a = \"bool\"\n[service.s]\nowner = \"o\"", 6, "needs at least one feature");
    service("[]", "needs at least one feature");
    service("\"v:a\"", "expected an array of references");
    service("[5]", "found 5, expected a reference");
    service("[\"v:b\"]", "unknown feature \"v:b\"");
    service("[\"w:a\"]", "unknown view \"w\"");
    service("[\"v@2:a\"]", "unknown view \"v@2\"; valid: v@1");
    service("[\"v:a:b\"]", "is no feature reference");
    service("[\"v:a\", \"v:a\"]", "has \"v:a\" twice");
    service("[{ ref = \"v:a\", as = \"x\" }, { ref = \"v@1:a\", as = \"x\" }]", "has \"x\" twice");
    service("[{ as = \"x\" }]", "needs a ref");
    service("[{ ref = \"v:a\", alias = \"x\" }]", "unknown key \"alias\"");
    service("[{ ref = \"v:a\", as = \"x y\" }]", "bad name \"x y\"");
    service("[{ ref = \"v:a\", entity = 5 }]", "entity: found 5");
    view(
        "features.a = \"bool\"\n[service.s]\nfeatures = [{ ref = \"v:a\", entity = \"m\" }]\n\
         [entity.m]\njoin_keys = [\"m\"]",
        7,
        "\"m\" stands for the key of entity \"m\", but \"v:a\" needs that of \"user\"",
    );
    view(
        "features.a = \"bool\"\n[service.s]\nfeatures = [{ ref = \"v:a\", entity = \"r\" },\n\
         { ref = \"w:b\", entity = \"r\" }]\n[entity.m]\njoin_keys = [\"m\"]\n[view.w]\n\
         entity = \"m\"\nfeatures.b = \"bool\"",
        8,
        "needs that of \"m\"",
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_text() {
    let found = mistakes(
        "[entity.user]\njoin_keys = [\"a\", \"a\"]\nttl = \"1d\"\n[view.v]\nttl = \"x\"\n\
         features.b = \"int\"\nfeatures.c = { type = \"bool\", default = 1, ttl = \"x\" }\n",
    );
    let lines: Vec<_> = found.iter().map(|error| error.split(": ").next().unwrap()).collect();
    let expected =
        ["d.toml:2", "d.toml:3", "d.toml:4", "d.toml:5", "d.toml:6", "d.toml:7", "d.toml:7"];
    assert_eq!(lines, expected, "{found:#?}");
}

#[test]
fn a_text_is_for_the_project_given_unless_it_names_another() {
    let check = |text: &str, expected: &str| {
        let definitions = Definitions::parse_toml_for("risk", "d.toml", text).unwrap();
        assert_eq!(definitions.projects, [expected.into()], "{text}");
        assert_eq!(*definitions.entities[0].project, *expected, "{text}");
    };
    check(BASE, "risk");
    check(&format!("project = \"growth\"\n{BASE}"), "growth");
}

#[test]
fn files_refer_to_each_other_and_must_not_repeat_names() {
    let view = "[view.v]\nentity = \"user\"\nfeatures.a = \"bool\"";
    let both = Definitions::parse_toml_files([("b.toml", view), ("a.toml", BASE)]).unwrap();
    assert!(diff(&Registry::new(), &both, Absent::Keep).accept().is_ok());
    let twice = [("a.toml", BASE), ("b.toml", view), ("c.toml", "\n\n"), ("d.toml", BASE)];
    let errors = Definitions::parse_toml_files(twice).unwrap_err();
    assert_eq!(errors.len(), 1);
    let expected = "d.toml:1: entity \"user\" is defined twice, first at a.toml:1";
    assert_eq!(errors[0].to_string(), expected);
    let elsewhere = format!("project = \"other\"\n{BASE}");
    let apart = [("a.toml", BASE), ("d.toml", &elsewhere)];
    assert_eq!(Definitions::parse_toml_files(apart).unwrap().projects.len(), 2);
    let defaults = "default_version = 1\nentity = \"user\"\nfeatures.a = \"bool\"";
    let text = format!("{BASE}[view.v]\n{defaults}\n[view.\"v@2\"]\n{defaults}");
    let found = mistakes(&text);
    assert_eq!(
        found,
        ["d.toml:8: default_version of view \"v\" is defined twice, first at d.toml:4"]
    );
}

#[test]
fn mistakes_in_json_are_named_by_path() {
    let check = |body: &str, expected: &str| {
        let errors = Definitions::parse_json(body.as_bytes(), "default").unwrap_err();
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(expected), "{found:#?}");
    };
    check("", "body: not valid JSON: EOF");
    check("[]", "body: definitions: found an array, expected a table");
    check("{} x", "body: not valid JSON");
    check("{\"view\":null}", "view: view: found null, expected a table");
    check("{\"entity\":{\"u\":{\"join_keys\":[\"a\",7]}}}", "entity.u.join_keys[1]: ");
    check("{\"entity\":{\"u\":{\"join_keys\":[\"a\"],\"x\":1}}}", "entity.u.x: unknown key");
    check(
        "{\"view\":{\"v\":{\"entity\":\"u\",\"features\":{\"a\":{\"type\":\"bool\",\"default\":null}}}}}",
        "view.v.features.a.default: default of \"a\" is null",
    );
    check("{\"a\":{\"b\":1,\"b\":2}}", "body: not valid JSON: a.b stands twice");
    check(&"[".repeat(10_000), "body: not valid JSON: recursion limit");
    let error = Definitions::parse_json(b"{\"entity\":{\"\xff\":1}}", "default").unwrap_err();
    assert_eq!(error[0].code().as_str(), "MALFORMED_REQUEST");
}

#[test]
fn defaults_of_every_type_are_read() {
    let check = |feature: &str, expected: &str| {
        let text = format!("{BASE}[view.v]\nentity = \"user\"\nfeatures.f = {feature}");
        let definitions = Definitions::parse_toml("d.toml", &text).unwrap();
        let default = definitions.views[0].features[0].value.default.as_ref().unwrap();
        assert_eq!(crate::registry::model::json_of(default).to_string(), expected, "{feature}");
    };
    check("{ type = \"int64\", default = 9223372036854775807 }", "9223372036854775807");
    check("{ type = \"int64\", default = 0xff }", "255");
    check("{ type = \"int32\", default = -1_000 }", "-1000");
    check("{ type = \"float64\", default = +1_0.5 }", "10.5");
    check("{ type = \"float64\", default = 3 }", "3.0");
    check("{ type = \"float32\", default = 0.1 }", "0.1");
    check("{ type = \"bool\", default = false }", "false");
    check("{ type = \"string\", default = \"é\\\"\" }", "\"é\\\"\"");
    check("{ type = \"bytes\", default = \"AQI=\" }", "\"AQI=\"");
    let time = "\"2026-01-31T12:00:00.000000Z\"";
    check("{ type = \"timestamp\", default = \"2026-01-31T12:00:00Z\" }", time);
    check("{ type = \"timestamp\", default = 2026-01-31T12:00:00Z }", time);
    check("{ type = \"string[]\", default = [\"a\", \"b\"] }", "[\"a\",\"b\"]");
    check("{ type = \"float32[2]\", default = [1, 2.5] }", "[1.0,2.5]");
}

#[test]
fn composite_and_typed_join_keys_keep_their_order() {
    let text = "[entity.r]\njoin_keys = [\"origin\", \"dest:int64\", \"leg:int32\"]";
    let planned =
        diff(&Registry::new(), &Definitions::parse_toml("d.toml", text).unwrap(), Absent::Keep);
    assert_eq!(planned.changes[0].text, "+ entity r (origin, dest:int64, leg:int32)");
    let mut registry = Registry::new();
    registry.apply(&planned.changes[0].change).unwrap();
    let entity = registry.entity_named(ProjectId(0), "r").unwrap();
    assert_eq!(entity.key_types().len(), 3);
}
