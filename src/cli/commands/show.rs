//! `stat` and `why`: one path in full.

use super::{Each, about};
use crate::cli::args::{PathArgs, PathsArgs};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_ago_or, human_bytes, human_counted, human_time_and_ago};
use crate::types::Result;
use crate::types::api::{Entry, Health, Kind, ReplicaLocation};

/// `holdfast stat`.
pub(crate) async fn stat(context: &Context, args: &PathsArgs) -> Result<Exit> {
    let cluster = context.cluster()?;
    let mut output = context.output();
    let mut each = Each::default();
    for typed in &args.paths {
        let outcome = async {
            let mut entry = cluster.names.stat(&context.resolve(typed)?).await?;
            if context.json() {
                // A ticket is a permission; it does not belong in what people paste.
                entry.replicas.iter_mut().for_each(|replica| replica.url = None);
                return output.array_item(&entry);
            }
            if each.any_done() {
                output.line("")?;
            }
            print_entry(&mut output, &entry)
        };
        let outcome = outcome.await;
        output.flush()?;
        each.note(outcome.map_err(about(typed)))?;
    }
    if context.json() && each.any_done() {
        output.array_end()?;
    }
    output.flush()?;
    Ok(each.exit())
}

fn print_entry(output: &mut Output, entry: &Entry) -> Result<()> {
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
    };
    let path = output.name(&entry.path).into_owned();
    let mut facts = vec![("path", path), ("kind", kind.to_string())];
    if let Some(size) = entry.size {
        let exact = human_counted(size, "byte");
        facts.push(("size", if size < 1_024 { exact } else { format!("{} ({exact})", human_bytes(size)) }));
    }
    facts.extend(entry.sha256.map(|sha256| ("sha256", sha256.to_string())));
    facts.extend(entry.object.map(|object| ("object", object.to_string())));
    facts.push(("version", entry.version.to_string()));
    facts.push(("created", human_time_and_ago(&entry.created)));
    facts.push(("modified", human_time_and_ago(&entry.modified)));
    facts.push(match entry.copies {
        Some(copies) => ("copies", format!("{copies} of {} wanted", entry.copies_wanted)),
        None => ("copies", format!("{} wanted for new files", entry.copies_wanted)),
    });
    for (name, value) in facts {
        output.line(format_args!("{name:<9} {value}"))?;
    }
    if entry.replicas.is_empty() {
        return Ok(());
    }
    output.line("")?;
    print_copies(output, entry)
}

/// Where the copies are, one in each line.
fn print_copies(output: &mut Output, entry: &Entry) -> Result<()> {
    let row = |replica: &ReplicaLocation| {
        let health = match replica.health {
            Health::Live => "live",
            Health::Suspect => "suspect",
            Health::Down => "down",
        };
        vec![
            replica.name.clone(),
            replica.host.clone(),
            replica.state.clone(),
            health.to_string(),
            human_ago_or(replica.since.as_ref(), "-"),
            human_ago_or(replica.verified.as_ref(), "never"),
        ]
    };
    output.table(&["SERVER", "HOST", "COPY", "HEALTH", "SINCE", "VERIFIED"], entry.replicas.iter().map(row).collect())
}

/// `holdfast why`.
pub(crate) async fn why(context: &Context, args: &PathArgs) -> Result<Exit> {
    let mut why = context.cluster()?.names.why(&context.resolve(&args.path)?).await?;
    let mut output = context.output();
    if context.json() {
        why.entry.replicas.iter_mut().for_each(|replica| replica.url = None);
        output.json(&why)?;
    } else {
        // The answer first, then what it rests on.
        let path = output.name(&why.entry.path).into_owned();
        output.line(format_args!("{path}:"))?;
        for finding in &why.findings {
            let finding = output.name(finding).into_owned();
            output.line(format_args!("- {finding}"))?;
        }
        output.line("")?;
        print_entry(&mut output, &why.entry)?;
        if !why.events.is_empty() {
            output.line("")?;
            output.line("What happened to these bytes, the newest last:")?;
            super::events::print_each(&mut output, why.events.iter().rev())?;
        }
    }
    output.flush()?;
    Ok(Exit::Done)
}
