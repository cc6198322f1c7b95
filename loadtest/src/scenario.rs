//! Scenarios: what is asked, of which data, read from TOML files.
//!
//! It does not know how a scenario is run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::{Kind, Mix};
use crate::failure::{At, Failure, Outcome};
use crate::keys::{Distribution, Keys};

/// One scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// What it stands for.
    pub(crate) about: String,
    pub(crate) data: Data,
    pub(crate) request: Request,
    pub(crate) keys: Keys,
    pub(crate) load: Load,
    /// Settings of a Larder that is started for this scenario, such as `"storage.cache_size"`.
    #[serde(default)]
    pub(crate) larder: BTreeMap<String, String>,
}

/// What the store holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Data {
    /// Scenarios that name the same view share it, and must say the same of it.
    pub(crate) view: String,
    pub(crate) entities: u64,
    pub(crate) features: Mix,
    /// Rows of each entity, an hour apart. Of several, one is asked for as of an instant.
    #[serde(default = "one")]
    pub(crate) versions: u64,
    /// `memory` or `disk`.
    #[serde(default = "memory")]
    pub(crate) tier: String,
}

/// What one request asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// One asks the online route, several the batch route.
    pub(crate) entities: usize,
    /// The first so many of the view.
    pub(crate) features: usize,
    /// Share of requests that write one row, as it was.
    #[serde(default)]
    pub(crate) writes: f64,
    /// One in so many answers is checked value by value; none if 0.
    pub(crate) check_one_in: u64,
}

/// How much is asked, unless the command says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) connections: usize,
}

fn memory() -> String {
    "memory".to_owned()
}

const fn one() -> u64 {
    1
}

impl Data {
    /// How many rows there are; by number, the first of every entity come first.
    pub(crate) const fn rows(&self) -> u64 {
        self.entities * self.versions
    }

    /// By what a row's number is divided to have its version and, left over, its entity; none where
    /// there is one version, and the number is that of the entity, be it there or not.
    pub(crate) fn versioned(&self) -> Option<u64> {
        (self.versions > 1).then_some(self.entities)
    }
}

impl Scenario {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).at(shown)?;
        Self::parse(&text).at(path.display())
    }

    /// Reads what a file says.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let scenario: Self = toml::from_str(text).map_err(|e| Failure::new(e.to_string()))?;
        match scenario.mistake() {
            Some(mistake) => Err(Failure::new(mistake)),
            None => Ok(scenario),
        }
    }

    /// The types of the features it asks for.
    pub(crate) fn asked(&self) -> Vec<Kind> {
        let mut kinds = self.data.features.kinds();
        kinds.truncate(self.request.features);
        kinds
    }

    fn mistake(&self) -> Option<String> {
        let (data, request) = (&self.data, &self.request);
        let kinds = data.features.kinds();
        if data.entities == 0 || data.entities > 50_000_000 {
            return Some(format!("data.entities is {}, from 1 to 50000000", data.entities));
        }
        if request.features == 0 || request.features > kinds.len() {
            let (asked, there) = (request.features, kinds.len());
            return Some(format!("request.features is {asked}, from 1 to the {there} of the view"));
        }
        if request.entities == 0 || request.entities > 10_000 {
            return Some(format!("request.entities is {}, from 1 to 10000", request.entities));
        }
        let shares = [("request.writes", request.writes), ("keys.missing", self.keys.missing)];
        if let Some((name, share)) = shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Some(format!("{name} is {share}, from 0 to 1"));
        }
        if data.versions == 0 || data.rows() > 1_000_000_000 {
            let versions = data.versions;
            return Some(format!("data.versions is {versions}, for 1 to 1000000000 rows in all"));
        }
        let plain = request.writes == 0.0 && self.keys.missing == 0.0 && request.entities == 1;
        if data.versions > 1 && !plain {
            return Some("of several versions one entity that is there is asked for".to_owned());
        }
        if request.writes > 0.0 && data.features.embedding > 0 {
            return Some("request.writes cannot write embeddings".to_owned());
        }
        if !["memory", "disk"].contains(&data.tier.as_str()) {
            return Some(format!("data.tier is {}, can be memory or disk", data.tier));
        }
        if let Distribution::Hot { entities, .. } = self.keys.distribution
            && !(1..=data.entities).contains(&entities)
        {
            return Some(format!("{entities} hot entities, from 1 to data.entities"));
        }
        if self.load.connections == 0 || self.load.rate <= 0.0 {
            return Some("load.connections and load.rate must be above 0".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "a"
        about = "b"
        data = { view = "v", entities = 10, features = { int64 = 3 } }
        request = { entities = 1, features = 2, check_one_in = 1 }
        keys = { distribution = "uniform" }
        load = { rate = 10, connections = 1 }
    "#;

    #[test]
    fn mistakes_are_named() {
        assert_eq!(Scenario::parse(GOOD).unwrap().asked(), [Kind::Int64, Kind::Int64]);
        let check = |from: &str, to: &str, expected: &str| {
            let error = Scenario::parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("features = 2", "features = 4", "request.features is 4, from 1 to the 3");
        check("entities = 10", "entities = 0", "data.entities is 0");
        check("entities = 10", "entities = 10, versions = 0", "data.versions is 0");
        let several = GOOD.replace("entities = 10", "entities = 10, versions = 2");
        let error = Scenario::parse(&several.replace("entities = 1,", "entities = 2,"));
        assert!(error.unwrap_err().to_string().contains("one entity that is there"));
        assert_eq!(Scenario::parse(&several).unwrap().data.rows(), 20);
        check("check_one_in = 1", "check_one_in = 1, writes = 2.0", "request.writes is 2");
        check("int64 = 3", "int99 = 3", "unknown field `int99`");
        check("rate = 10", "rate = 0", "above 0");
        let hot = "distribution = { hot = { entities = 11, share = 0.5 } }";
        check("distribution = \"uniform\"", hot, "11 hot entities");
    }

    #[test]
    fn the_scenarios_beside_this_crate_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut views: BTreeMap<String, Data> = BTreeMap::new();
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(&path).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(scenario.name.as_str()));
            let data = views.entry(scenario.data.view.clone()).or_insert(scenario.data.clone());
            assert_eq!(*data, scenario.data, "{} differs from its sisters", scenario.name);
            read += 1;
        }
        assert!(read > 8, "{read} scenarios");
    }
}
