//! A request's attributes in the form that authorization decides about.

use machinery::{
    field_selector::{self, FieldSelector},
    label_selector::{self, LabelSelector},
};

use crate::{
    auth::{Attributes, Requirement, ResourceAttributes, Target, UserInfo},
    request_info::RequestInfo,
};

/// What `user` wants to do: the very values that dispatch goes by.
#[must_use]
pub fn attributes(info: &RequestInfo, user: &UserInfo) -> Attributes {
    if !info.is_resource {
        return Attributes::path(user.clone(), &info.verb, &info.path);
    }
    let resource = ResourceAttributes {
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        field_selector: info
            .field_selector
            .as_deref()
            .map(field_requirements)
            .unwrap_or_default(),
        label_selector: info
            .label_selector
            .as_deref()
            .map(label_requirements)
            .unwrap_or_default(),
    };
    Attributes {
        user: user.clone(),
        verb: info.verb.clone(),
        target: Target::Resource(Box::new(resource)),
    }
}

/// A selector that cannot be read narrows nothing; the handler refuses it later. Nor does a term
/// without a field, which no review may hold: the client would be told of a failure of ours.
fn field_requirements(selector: &str) -> Vec<Requirement> {
    let selector = FieldSelector::parse(selector).unwrap_or_default();
    let has_field = |term: &&field_selector::Term| !term.field.is_empty();
    let requirement = |term: &field_selector::Term| {
        let operator = match term.operator {
            field_selector::Operator::Equals => "In",
            field_selector::Operator::NotEquals => "NotIn",
        };
        Requirement {
            key: term.field.clone(),
            operator: operator.to_owned(),
            values: vec![term.value.clone()],
        }
    };
    let terms = selector.terms().iter().filter(has_field);
    terms.map(requirement).collect()
}

fn label_requirements(selector: &str) -> Vec<Requirement> {
    use label_selector::Operator;
    let selector = LabelSelector::parse(selector).unwrap_or_default();
    let requirement = |term: &label_selector::Requirement| {
        let operator = match term.operator() {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            // Reviews know no comparisons: the request then needs the wider right.
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let (key, values) = (term.key().to_owned(), term.values().to_vec());
        Some(Requirement {
            key,
            operator: operator.to_owned(),
            values,
        })
    };
    selector
        .requirements()
        .iter()
        .filter_map(requirement)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::Query;

    fn asked(path: &str, query: &str) -> Attributes {
        let info = RequestInfo::parse("GET", path, &Query::parse(query)).unwrap();
        attributes(&info, &UserInfo::anonymous())
    }

    fn selectors(query: &str) -> (Vec<String>, Vec<String>) {
        let Target::Resource(target) = asked("/apis/g.example/v1/gizmos", query).target else {
            panic!("the path names a resource");
        };
        let text = |all: Vec<Requirement>| {
            let one = |r: Requirement| format!("{} {} {}", r.key, r.operator, r.values.join("|"));
            all.into_iter().map(one).collect()
        };
        (text(target.field_selector), text(target.label_selector))
    }

    #[test]
    fn selectors_narrow_what_is_asked_for() {
        let (fields, labels) = selectors(
            "fieldSelector=metadata.name%3Dx,spec.a!%3Db&labelSelector=a%3Db,c+in+(d,e),!f,g,h!%3Di",
        );
        assert_eq!(fields, ["metadata.name In x", "spec.a NotIn b"]);
        assert_eq!(
            labels,
            [
                "a In b",
                "c In d|e",
                "f DoesNotExist ",
                "g Exists ",
                "h NotIn i"
            ]
        );
    }

    #[test]
    fn what_cannot_be_asked_or_read_narrows_nothing() {
        let (fields, labels) = selectors("fieldSelector=zzz&labelSelector=a%3E1");
        assert_eq!((fields.len(), labels.len()), (0, 0));
        assert_eq!(selectors("labelSelector=a+in+(").1.len(), 0);
        assert_eq!(selectors("fieldSelector=%3Dx").0.len(), 0);
    }

    #[test]
    fn what_is_no_resource_is_asked_for_by_its_path() {
        let attributes = asked("/apis/g.example/v1", "");
        assert_eq!(
            attributes.target,
            Target::Path("/apis/g.example/v1".to_owned())
        );
        assert_eq!(attributes.verb, "get");
    }
}
