//! Rebuilds when a migration is added: the macro that embeds them tracks only existing files.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
