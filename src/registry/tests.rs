//! The registry as records build it: names, ids, snapshots, plans.

use super::*;
use crate::ids::Slot;
use crate::registry::changes::{Absent, Planned, diff};
use crate::registry::definitions::Definitions;
use crate::registry::describe::{Described, Filter};
use crate::registry::drops::{DropError, drop_service, drop_view};
use crate::registry::plan::{Ask, Plan, What};
use crate::registry::record::{
    RecordError, decode_change, decode_snapshot, encode_change, encode_snapshot,
};
use crate::registry::resolve::{Purpose, ResolveError};

const P: ProjectId = ProjectId(0);

pub(super) const SHOP: &str = r#"
[entity.user]
join_keys = ["user_id"]
[entity.merchant]
join_keys = ["merchant_id:int64"]
[view.user_profile]
entity = "user"
ttl = "90d"
features.age = "int32"
features.country = { type = "string", default = "unknown" }
features.balance = { type = "float64", ttl = "1h", default = 0.5, owner = "ledger" }
[view."user_profile@2"]
entity = "user"
features = { age = "int64", seen = "timestamp" }
[view.user_risk]
entity = "user"
offline = false
owner = "risk"
tags = ["hot"]
features = { score = "float32", age = "int32" }
[view.merchant_risk]
entity = "merchant"
online = false
features = { rating = "float32[2]" }
[view.merchant_size]
entity = "merchant"
features = { size = "int64" }
[service.credit]
features = [
  "user_profile:age",
  { ref = "merchant_size:size", as = "size" },
  { ref = "user_profile:age", entity = "guarantor", as = "guarantor_age" },
]
"#;

pub(super) fn plan_toml(registry: &Registry, toml: &str, absent: Absent) -> Planned {
    diff(registry, &Definitions::parse_toml("t.toml", toml).unwrap(), absent)
}

pub(super) fn apply_toml(registry: &mut Registry, toml: &str, absent: Absent) -> Vec<String> {
    let (changes, _) = plan_toml(registry, toml, absent).accept().unwrap();
    changes.iter().for_each(|planned| registry.apply(&planned.change).unwrap());
    changes.into_iter().map(|planned| planned.text).collect()
}

pub(super) fn registry_of(toml: &str) -> Registry {
    let mut registry = Registry::new();
    apply_toml(&mut registry, toml, Absent::Keep);
    registry
}

fn compile(
    registry: &Registry,
    entity_type: Option<&str>,
    references: &[&str],
) -> Result<Plan, ResolveError> {
    let what = What::Features(references.to_vec());
    Plan::compile(registry, P, &Ask { entity_type, what, purpose: Purpose::Online })
}

#[test]
fn the_default_project_is_there_from_the_start() {
    let registry = Registry::new();
    assert_eq!(registry.project("default"), Some(P));
    assert_eq!(
        registry.project_named("defualt").unwrap_err().code().as_str(),
        "UNKNOWN_ENTITY_TYPE"
    );
}

#[test]
fn a_snapshot_gives_the_same_registry_back() {
    let mut registry = registry_of(SHOP);
    apply_toml(&mut registry, "project = \"other\"\n[entity.a]\njoin_keys = [\"a\"]", Absent::Keep);
    apply_toml(
        &mut registry,
        "[entity.user]\njoin_keys = [\"user_id\"]\n[view.user_profile]\nentity = \"user\"\n\
         ttl = \"90d\"\ndefault_version = 2\nfeatures.age = \"int32\"\n\
         features.country = \"string\"\nfeatures.balance = \"float64\"",
        Absent::Keep,
    );
    let dropped = drop_service(&registry, P, "credit").unwrap();
    registry.apply(&dropped[0].change).unwrap();
    let bytes = encode_snapshot(&registry.to_snapshot());
    let back = Registry::from_snapshot(&decode_snapshot(&bytes).unwrap()).unwrap();
    assert_eq!(back, registry);
    assert_eq!(back.default_version(P, "user_profile"), Some(2));
    assert_eq!(back.next_ids().service, ServiceId(1), "a dropped id stays used");
    assert_eq!(encode_snapshot(&back.to_snapshot()), bytes);
}

#[test]
fn replaying_encoded_changes_gives_the_same_registry() {
    let (changes, _) = plan_toml(&Registry::new(), SHOP, Absent::Keep).accept().unwrap();
    let mut replayed = Registry::new();
    for planned in &changes {
        let change = decode_change(&encode_change(&planned.change)).unwrap();
        assert_eq!(change, planned.change);
        replayed.apply(&change).unwrap();
    }
    assert_eq!(replayed, registry_of(SHOP));
    assert_eq!(replayed.revision(), changes.len() as u64);
}

#[test]
fn the_bytes_of_control_records_stay_as_they_are() {
    let toml = "[entity.e]\njoin_keys = [\"k\", \"n:int32\"]\nowner = \"o\"\n[view.v]\n\
                entity = \"e\"\nttl = \"1s\"\ntier = \"disk\"\ntags = [\"t\"]\n\
                features.a = { type = \"float32\", default = 0.1, description = \"d\" }\n\
                features.b = \"string[]\"\n[service.s]\nfeatures = [\"v:b\"]";
    let (changes, _) = plan_toml(&Registry::new(), toml, Absent::Keep).accept().unwrap();
    let mut all: Vec<Change> = changes.into_iter().map(|planned| planned.change).collect();
    all.push(Change::PutProject(ProjectRecord { id: ProjectId(7), name: "p".into() }));
    all.push(Change::SetDefaultVersion(DefaultVersion {
        project: P,
        view: "v".into(),
        version: 2,
    }));
    all.push(Change::DropEntity { id: EntityTypeId(3) });
    all.push(Change::DropView { id: ViewId(3) });
    all.push(Change::DropService { id: ServiceId(3) });
    let expected = [
        r#"{"put_entity":{"id":0,"project":0,"name":"e","join_keys":[{"name":"k","type":"string"},{"name":"n","type":"int32"}],"owner":"o"}}"#,
        r#"{"put_view":{"id":0,"project":0,"name":"v","version":1,"entity":0,"features":[{"name":"a","type":"float32","default":0.1,"description":"d"},{"name":"b","type":"string[]"}],"ttl":1000000,"online":true,"offline":true,"tier":"disk","tags":["t"]}}"#,
        r#"{"put_service":{"id":0,"project":0,"name":"s","features":[{"view":0,"slot":1,"role":"e","name":"v:b","reference":"v:b"}]}}"#,
        r#"{"put_project":{"id":7,"name":"p"}}"#,
        r#"{"set_default_version":{"project":0,"view":"v","version":2}}"#,
        r#"{"drop_entity":{"id":3}}"#,
        r#"{"drop_view":{"id":3}}"#,
        r#"{"drop_service":{"id":3}}"#,
    ];
    assert_eq!(all.len(), expected.len());
    for (change, expected) in all.iter().zip(expected) {
        let bytes = encode_change(change);
        assert_eq!(bytes[..2], [1, 0]);
        assert_eq!(std::str::from_utf8(&bytes[2..]).unwrap(), expected);
        assert_eq!(&decode_change(&bytes).unwrap(), change);
    }
}

#[test]
fn damaged_and_later_records_are_told_apart() {
    assert_eq!(decode_change(&[1]), Err(RecordError::Short { bytes: 1 }));
    assert_eq!(decode_change(b"\x02\x00{}"), Err(RecordError::Format { found: 2 }));
    let malformed = [&b"\x01\x00{\"put_project\":"[..], b"\x01\x00{\"put_star\":{}}"];
    for bytes in malformed {
        assert!(matches!(decode_change(bytes), Err(RecordError::Malformed { .. })));
    }
    let bad_default = br#"{"put_view":{"id":0,"project":0,"name":"v","version":1,"entity":0,
        "features":[{"name":"a","type":"int32","default":"x"}]}}"#;
    let error = decode_change(&[b"\x01\x00", &bad_default[..]].concat()).unwrap_err();
    assert!(error.to_string().contains("default of feature a"), "{error}");
    let unknown = b"\x01\x00{\"drop_view\":{\"id\":3,\"why\":\"a later field\"}}";
    assert_eq!(decode_change(unknown), Ok(Change::DropView { id: ViewId(3) }));
}

#[test]
fn ids_are_never_given_twice() {
    let one = "[entity.e]\njoin_keys = [\"k\"]\n[view.v]\nentity = \"e\"\nfeatures.a = \"bool\"";
    let mut registry = registry_of(one);
    let first = registry.find_view(P, "v", None).unwrap().id;
    assert_eq!(apply_toml(&mut registry, "", Absent::Drop), ["- view v", "- entity e"]);
    assert!(registry.find_view(P, "v", None).is_none());
    apply_toml(&mut registry, one, Absent::Keep);
    let second = registry.find_view(P, "v", None).unwrap();
    assert_ne!(second.id, first);
    assert_ne!(second.entity, EntityTypeId(0));
    let mut old = (**second).clone();
    old.id = first;
    old.version = 2;
    let error = registry.apply(&Change::PutView(Box::new(old))).unwrap_err();
    assert!(matches!(error, ApplyError::IdReused { .. }), "{error}");
}

#[test]
fn contradicting_changes_change_nothing() {
    let registry = registry_of(SHOP);
    let view = |name: &str| (**registry.find_view(P, name, None).unwrap()).clone();
    let check = |change: Change, expected: &str| {
        let mut after = registry.clone();
        let error = after.apply(&change).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} / {expected}");
        assert_eq!(after, registry);
    };
    let mut taken = view("user_risk");
    taken.id = ViewId(99);
    check(Change::PutView(Box::new(taken)), "contradicts");
    let mut shrunk = view("user_risk");
    shrunk.features = Vec::from(shrunk.features)[..1].to_vec().into();
    check(Change::PutView(Box::new(shrunk)), "contradicts");
    let mut homeless = view("user_risk");
    homeless.entity = EntityTypeId(99);
    check(Change::PutView(Box::new(homeless)), "entity 99 is not defined");
    let mut entity = (**registry.find_entity(P, "user").unwrap()).clone();
    entity.join_keys.clear();
    check(Change::PutEntity(Box::new(entity)), "contradicts");
    check(Change::DropEntity { id: EntityTypeId(0) }, "used by view");
    check(Change::DropView { id: view("user_profile").id }, "used by service \"credit\"");
    check(Change::DropView { id: ViewId(99) }, "not defined");
    check(Change::DropService { id: ServiceId(99) }, "not defined");
    let mut service = (**registry.find_service(P, "credit").unwrap()).clone();
    service.features[0].slot = Slot(99);
    check(Change::PutService(Box::new(service)), "feature 99 of view");
    let version = DefaultVersion { project: P, view: "user_profile".into(), version: 9 };
    check(Change::SetDefaultVersion(version), "not defined");
    let project = ProjectRecord { id: ProjectId(0), name: "again".into() };
    check(Change::PutProject(project), "contradicts");
}

#[test]
fn features_keep_their_slots_and_their_ttl() {
    let registry = registry_of(SHOP);
    let view = registry.view_named(P, "user_profile").unwrap();
    assert_eq!(view.slot_of("balance"), Some(Slot(2)));
    assert_eq!(view.slot_of("nothing"), None);
    assert_eq!(view.ttl_of(Slot(0)).unwrap().to_string(), "90d");
    assert_eq!(view.ttl_of(Slot(2)).unwrap().to_string(), "1h");
    assert_eq!(view.layout().len(), 3);
}

#[test]
fn names_find_views_and_versions() {
    let registry = registry_of(SHOP);
    let check = |name: &str, expected: Result<u32, &str>| {
        let found = registry.view_named(P, name);
        match (found, expected) {
            (Ok(view), Ok(version)) => assert_eq!(view.version, version, "{name}"),
            (Err(error), Err(fragment)) => {
                assert_eq!(error.code().as_str(), "UNKNOWN_VIEW");
                assert!(error.to_string().contains(fragment), "{error} / {fragment}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
    };
    check("user_profile", Ok(1));
    check("user_profile@1", Ok(1));
    check("user_profile@2", Ok(2));
    check("user_profile@3", Err("valid: user_profile@1, user_profile@2"));
    check("user_profile@x", Err("valid: user_profile@1"));
    check("user_profile@02", Err("valid: user_profile@1"));
    check("user_profil", Err("did you mean \"user_profile\"?"));
    check("user_profil@2", Err("did you mean \"user_profile\"?"));
    check("", Err("valid: merchant_risk, merchant_size, user_profile, user_risk"));
    assert_eq!(registry.service_named(P, "kredit").unwrap_err().code().as_str(), "UNKNOWN_SERVICE");
    assert_eq!(
        registry.entity_named(P, "users").unwrap_err().code().as_str(),
        "UNKNOWN_ENTITY_TYPE"
    );
}

#[test]
fn plans_answer_in_the_order_asked() {
    let registry = registry_of(SHOP);
    let asked = ["user_profile:balance", "merchant_size:size", "user_risk:score", "seen"];
    let plan = compile(&registry, None, &asked[..3]).unwrap();
    let roles: Vec<&str> = plan.roles.iter().map(|role| &*role.name).collect();
    assert_eq!(roles, ["user", "merchant"]);
    let sources: Vec<_> =
        plan.sources.iter().map(|source| (source.view.name.as_str(), source.role)).collect();
    assert_eq!(sources, [("user_profile", 0), ("merchant_size", 1), ("user_risk", 0)]);
    let columns: Vec<_> =
        plan.columns.iter().map(|column| (&*column.name, column.source, column.slot)).collect();
    assert_eq!(columns[0], ("user_profile:balance", 0, Slot(2)));
    assert_eq!(columns[1], ("merchant_size:size", 1, Slot(0)));
    assert_eq!(columns[2], ("user_risk:score", 2, Slot(0)));
    assert_eq!(plan.columns[0].ttl.unwrap().to_string(), "1h");
    assert_eq!(plan.columns[0].default, Some(crate::value::cell::Value::Float64(0.5)));
    assert_eq!(plan.columns[2].ttl, None);
    assert_eq!(plan.revision, registry.revision());
    // Only the default version of a view is searched for a bare name.
    assert!(compile(&registry, None, &asked).is_err());
}

#[test]
fn what_cannot_be_resolved_is_named() {
    let registry = registry_of(SHOP);
    let check = |entity: Option<&str>, references: &[&str], code: &str, fragment: &str| {
        let error = compile(&registry, entity, references).unwrap_err();
        assert_eq!(error.code().as_str(), code, "{error}");
        assert!(error.to_string().contains(fragment), "{error} / {fragment}");
    };
    let both = "user_profile:age, user_risk:age";
    check(None, &["age"], "AMBIGUOUS_FEATURE", both);
    check(Some("user"), &["age"], "AMBIGUOUS_FEATURE", both);
    check(None, &["contry"], "UNKNOWN_FEATURE", "did you mean \"country\"?");
    check(Some("merchant"), &["country"], "UNKNOWN_FEATURE", "valid: rating, size");
    check(None, &["user_profile:agee"], "UNKNOWN_FEATURE", "did you mean \"user_profile:age\"?");
    check(None, &["user_profile@2:country"], "UNKNOWN_FEATURE", "valid: age, seen");
    check(None, &["user_profle:age"], "UNKNOWN_VIEW", "did you mean \"user_profile\"?");
    check(None, &["user_profile@9:age"], "UNKNOWN_VIEW", "user_profile@2");
    check(Some("usr"), &["user_profile:age"], "UNKNOWN_ENTITY_TYPE", "did you mean \"user\"?");
    check(None, &["size", "size"], "DUPLICATE_FEATURE", "\"size\" is asked for twice");
    check(
        Some("user"),
        &["merchant_size:size"],
        "MISSING_ENTITY",
        "needs the key of entity \"merchant\", given is \"user\"",
    );
    check(None, &["merchant_risk:rating"], "INVALID_VALUE", "not kept for lookups");
    check(None, &[], "INVALID_VALUE", "no feature");
    for malformed in ["", ":", "a:", ":a", "a:b:c", "user_profile@2"] {
        check(None, &[malformed], "INVALID_VALUE", "no feature reference");
    }
    assert_eq!(compile(&registry, None, &["size"]).unwrap().columns.len(), 1);
    assert_eq!(compile(&registry, Some("user"), &["country"]).unwrap().columns.len(), 1);
}

#[test]
fn views_are_refused_for_what_they_are_not_kept_for() {
    let registry = registry_of(SHOP);
    let code = |reference, purpose| {
        let ask = Ask { entity_type: None, what: What::Features(vec![reference]), purpose };
        Plan::compile(&registry, P, &ask).err().map(|error| error.to_string())
    };
    assert_eq!(code("user_risk:score", Purpose::Online), None);
    let error = code("user_risk:score", Purpose::AsOf).unwrap();
    assert_eq!(error, "view \"user_risk\" is not kept for as-of reads (offline = false)");
    assert_eq!(code("merchant_risk:rating", Purpose::AsOf), None);
}

#[test]
fn services_read_one_view_for_several_keys() {
    let registry = registry_of(SHOP);
    let ask =
        |entity_type| Ask { entity_type, what: What::Service("credit"), purpose: Purpose::Online };
    let plan = Plan::compile(&registry, P, &ask(None)).unwrap();
    let roles: Vec<_> =
        plan.roles.iter().map(|role| (&*role.name, role.entity.name.as_str())).collect();
    assert_eq!(roles, [("user", "user"), ("merchant", "merchant"), ("guarantor", "user")]);
    assert_eq!(plan.sources.len(), 3);
    assert_eq!(plan.role("guarantor"), Some(2));
    let names: Vec<&str> = plan.columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["user_profile:age", "size", "guarantor_age"]);
    let code =
        |entity| Plan::compile(&registry, P, &ask(Some(entity))).unwrap_err().code().as_str();
    assert_eq!(code("user"), "MISSING_ENTITY");
    assert_eq!(code("guarantor"), "MISSING_ENTITY");
    assert_eq!(code("gost"), "UNKNOWN_ENTITY_TYPE");
}

#[test]
fn drops_by_name_are_refused_while_needed() {
    let mut registry = registry_of(SHOP);
    let message = |registry: &Registry, name: &str| {
        let error: DropError = drop_view(registry, P, name).unwrap_err();
        (error.code().as_str(), error.to_string())
    };
    let (code, text) = message(&registry, "merchant_size");
    assert_eq!(code, "IN_USE");
    assert_eq!(text, "view \"merchant_size\" is used by service \"credit\"");
    let service = drop_service(&registry, P, "credit").unwrap();
    assert_eq!(service[0].text, "- service credit");
    registry.apply(&service[0].change).unwrap();
    let (code, text) = message(&registry, "user_profile");
    assert_eq!(code, "IN_USE");
    assert!(text.contains("its other versions, as their default"), "{text}");
    let second = drop_view(&registry, P, "user_profile@2").unwrap();
    registry.apply(&second[0].change).unwrap();
    assert!(drop_view(&registry, P, "user_profile").is_ok());
    assert_eq!(message(&registry, "user_profile@2").0, "UNKNOWN_VIEW");
    assert!(drop_service(&registry, P, "credit").is_err());
}

#[test]
fn descriptions_use_names_and_filters() {
    let registry = registry_of(SHOP);
    let features = registry.describe_features(P, Filter::default());
    assert_eq!(features.len(), 9);
    let json = serde_json::to_value(&features[4]).unwrap();
    let expected = serde_json::json!({
        "reference": "user_profile:balance", "view": "user_profile", "version": 1,
        "entity": "user", "type": "float64", "default": 0.5, "ttl": "1h", "freshness": null,
        "owner": "ledger",
    });
    assert_eq!(json, expected);
    let count = |filter| registry.describe_features(P, filter).len();
    assert_eq!(count(Filter { tag: Some("hot"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { owner: Some("risk"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { entity: Some("merchant"), ..Filter::default() }), 2);
    let views = registry.describe_views(P);
    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    let expected =
        ["merchant_risk", "merchant_size", "user_profile", "user_profile@2", "user_risk"];
    assert_eq!(names, expected);
    assert_eq!(views[2].services, ["credit"]);
    assert_eq!(
        registry.describe_entities(P)[1].views,
        ["user_profile", "user_profile@2", "user_risk"]
    );
    let services = registry.describe_services(P);
    assert_eq!(services[0].entities, ["user", "merchant", "guarantor"]);
    assert_eq!(services[0].features[1].reference, "merchant_size:size");
    let named = |name| registry.describe_named(P, name);
    assert!(matches!(named("user_risk"), Ok(Described::View(_))));
    assert!(matches!(named("user_risk:age"), Ok(Described::Feature(_))));
    assert!(matches!(named("score"), Ok(Described::Feature(_))));
    assert_eq!(named("age").unwrap_err().code().as_str(), "AMBIGUOUS_FEATURE");
    assert_eq!(named("user_risc").unwrap_err().code().as_str(), "UNKNOWN_VIEW");
}
