//! Finds the columns of a table of labels that hold entity keys and instants.
//!
//! It does not know what the labels are for, nor how a table is read.

use arrow::datatypes::Schema;

use crate::registry::plan::Role;
use crate::time::TimeUnit;
use crate::value::columns::{ColumnError, ColumnReader, Nan, Wanted};

/// The columns that were found.
pub struct LabelColumns {
    /// One for each role; the first one also reads the instants.
    pub readers: Vec<ColumnReader>,
    /// The column of each join key of each role.
    pub keys: Vec<Vec<String>>,
    /// The column of the instants.
    pub time: String,
}

/// The columns that hold the key of a role, where somebody says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyColumns {
    /// The role: an entity's name, or what a service calls it.
    pub role: String,
    /// One column for each join key, in their order.
    pub columns: Vec<String>,
}

impl KeyColumns {
    /// Reads `user=customer_id` or `route=from,to`; none if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (role, columns) = text.split_once('=')?;
        let columns: Vec<String> = columns.split(',').map(|name| name.trim().to_owned()).collect();
        let role = role.trim().to_owned();
        let named = !role.is_empty() && columns.iter().all(|name| !name.is_empty());
        named.then_some(Self { role, columns })
    }
}

impl LabelColumns {
    /// Finds the columns of `roles`: those that `said` names; else columns named as the join keys,
    /// or `role.join_key` where two roles are of one entity, or just `role` for a single key, or
    /// `entity_id` for the only single key. The instants stand in the first of `times` that is
    /// there.
    ///
    /// # Errors
    /// Every column that is missing, there twice, or of a type that cannot be read.
    pub fn find(
        schema: &Schema,
        roles: &[Role],
        (times, unit): (&[&str], Option<TimeUnit>),
        said: &[KeyColumns],
    ) -> Result<Self, Vec<ColumnError>> {
        let there = |name: &str| schema.fields().iter().any(|field| field.name() == name);
        let time = times.iter().find(|name| there(name)).or(times.first()).copied();
        let time = time.unwrap_or_default();
        let mut found = Self { readers: Vec::new(), keys: Vec::new(), time: time.to_owned() };
        for (index, role) in roles.iter().enumerate() {
            let names = match said.iter().find(|said| *said.role == *role.name) {
                Some(said) => said.columns.clone(),
                None => names_of(roles, role, &there),
            };
            let wanted = Wanted {
                keys: names.iter().map(String::as_str).zip(role.entity.key_types()).collect(),
                time: (index == 0).then_some(time),
                arrival: None,
                time_unit: unit,
                features: Vec::new(),
            };
            found.readers.push(ColumnReader::new(schema, &wanted, Nan::Refuse)?);
            found.keys.push(names);
        }
        Ok(found)
    }
}

/// The column of each join key of a role; where there is none, the best of its names.
fn names_of(roles: &[Role], role: &Role, there: &impl Fn(&str) -> bool) -> Vec<String> {
    let of_key = |join_key: &str| {
        let candidates = candidates(roles, role, join_key);
        let found = candidates.iter().find(|name| there(name));
        found.or(candidates.last()).cloned().unwrap_or_default()
    };
    role.entity.join_keys.iter().map(|key| of_key(&key.name)).collect()
}

/// Names under which one join key of a role may stand, the best last.
fn candidates(roles: &[Role], role: &Role, join_key: &str) -> Vec<String> {
    let single = role.entity.join_keys.len() == 1;
    let alone = roles.iter().filter(|other| other.entity.id == role.entity.id).count() == 1;
    let mut names = vec![format!("{}.{join_key}", role.name)];
    if single {
        names.push(role.name.to_string());
    }
    if single && roles.len() == 1 {
        names.push("entity_id".to_owned());
    }
    if alone {
        names.push(join_key.to_owned());
    }
    names
}
