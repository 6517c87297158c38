//! The schema of `meta/v1` ObjectMeta, which every object carries.

use std::sync::OnceLock;

use serde_json::json;

use super::{Schema, SchemaKind};

pub(super) fn object_meta() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let mut schema = identity();
        schema.properties.append(&mut lifecycle().properties);
        schema.properties.append(&mut bookkeeping().properties);
        schema.described("Metadata that every persisted object has.")
    })
}

fn text(description: &str) -> Schema {
    Schema::of(SchemaKind::String).described(description)
}

fn long(description: &str) -> Schema {
    Schema::of(SchemaKind::Integer)
        .with_format("int64")
        .described(description)
}

fn time(description: &str) -> Schema {
    text(description).with_format("date-time")
}

fn flag(description: &str) -> Schema {
    Schema::of(SchemaKind::Boolean).described(description)
}

fn texts(description: &str) -> Schema {
    Schema::map(Schema::of(SchemaKind::String)).described(description)
}

fn identity() -> Schema {
    let fields = [
        (
            "name",
            text(
                "Name of the object, unique within its namespace and resource. \
                 Given on creation, or made from generateName. Cannot be changed.",
            ),
        ),
        (
            "generateName",
            text(
                "Prefix from which the server makes a unique name, when none is given: \
                 five random characters are appended.",
            ),
        ),
        (
            "namespace",
            text(
                "Namespace in which the name is unique. Empty for cluster-scoped objects. \
                 Cannot be changed.",
            ),
        ),
        (
            "uid",
            text("Identifier of this object in time and space. Set by the server on creation."),
        ),
        (
            "labels",
            texts("Keys and values by which objects are organised and selected."),
        ),
        (
            "annotations",
            texts(
                "Keys and values for tools. They are kept as they are and cannot be selected by.",
            ),
        ),
        ("selfLink", text("Deprecated: no longer set by the server.")),
    ];
    Schema::object("ObjectMeta", fields)
}

fn lifecycle() -> Schema {
    let finalizers = Schema::list(Schema::of(SchemaKind::String))
        .described(
            "What must be done before the object is removed. Each entry is taken off by the \
             component that is responsible for it.",
        )
        .extended(&[
            ("x-kubernetes-list-type", json!("set")),
            ("x-kubernetes-patch-strategy", json!("merge")),
        ]);
    let fields = [
        (
            "resourceVersion",
            text(
                "Opaque version of the object by which clients notice changes, resume watches \
                 and guard updates. Set by the server.",
            ),
        ),
        (
            "generation",
            long("Number that grows with each change of the desired state."),
        ),
        (
            "creationTimestamp",
            time("Time of the object's creation. Set by the server."),
        ),
        (
            "deletionTimestamp",
            time(
                "Time at which deletion was asked for. Set by the server; the object is removed \
                 once its finalizers are gone.",
            ),
        ),
        (
            "deletionGracePeriodSeconds",
            long("Seconds that the object may take to terminate. Set with deletionTimestamp."),
        ),
        ("finalizers", finalizers),
    ];
    Schema::object("ObjectMeta", fields)
}

fn bookkeeping() -> Schema {
    let owners = Schema::list(owner_reference())
        .described(
            "Objects on which this one depends. It is collected as garbage when all of them are \
             gone. At most one of them is the managing controller.",
        )
        .extended(&[
            ("x-kubernetes-list-type", json!("map")),
            ("x-kubernetes-list-map-keys", json!(["uid"])),
            ("x-kubernetes-patch-merge-key", json!("uid")),
            ("x-kubernetes-patch-strategy", json!("merge")),
        ]);
    let managed = Schema::list(managed_fields_entry())
        .described("Which manager set which fields, in which version.")
        .extended(&[("x-kubernetes-list-type", json!("atomic"))]);
    Schema::object(
        "ObjectMeta",
        [("ownerReferences", owners), ("managedFields", managed)],
    )
}

fn owner_reference() -> Schema {
    let fields = [
        ("apiVersion", text("API version of the owner.")),
        ("kind", text("Kind of the owner.")),
        ("name", text("Name of the owner.")),
        ("uid", text("UID of the owner.")),
        (
            "controller",
            flag("Whether the owner is the managing controller."),
        ),
        (
            "blockOwnerDeletion",
            flag(
                "Whether the owner, when deleted in the foreground, stays until this object is \
                 gone.",
            ),
        ),
    ];
    Schema::object("OwnerReference", fields)
        .described("Identifies an owner in the same namespace, or a cluster-scoped one.")
        .requiring(&["apiVersion", "kind", "name", "uid"])
        .extended(&[("x-kubernetes-map-type", json!("atomic"))])
}

fn managed_fields_entry() -> Schema {
    let fields_v1 = Schema {
        preserve_unknown_fields: true,
        ..Schema::of(SchemaKind::Object).described("The set of fields, in the form FieldsV1.")
    };
    let fields = [
        ("manager", text("Who manages the fields.")),
        (
            "operation",
            text("How the entry came to be: Apply or Update."),
        ),
        (
            "apiVersion",
            text("Version in which the fields are named: group/version."),
        ),
        ("time", time("Time of the last change of the entry.")),
        ("fieldsType", text("The form of the field set: FieldsV1.")),
        ("fieldsV1", fields_v1),
        (
            "subresource",
            text("The subresource through which the fields were written, if any."),
        ),
    ];
    Schema::object("ManagedFieldsEntry", fields)
        .described("The fields that one manager set by one operation.")
}
