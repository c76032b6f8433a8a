//! From the graph to steps: which buffer each activation lies in, and where.

use std::ops::Range;
use std::sync::Arc;

use super::graph::{Graph, Id, Kind, Node};
use crate::network::arena::{self, Lifetime, Place};
use crate::network::ops::{Attention, Conv, Corner, GroupNorm, Kernel, LayerNorm, View};
use crate::network::program::{Op, Program, Step};

/// Whose buffer an activation lies in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Home {
    /// One of its own.
    Own,
    /// That of a concatenation, from this channel on: it need not be copied there.
    Within(Id, usize),
    /// That of the activation it is a window of, from this row and column on.
    Window(Id, usize, usize),
}

/// The program of `graph`, whose output is the node `output`.
pub(super) fn place(graph: Graph, output: Id) -> Result<Program, String> {
    let places = places(&graph, output)?;
    let live = live(&graph, output);
    let mut steps = vec![];
    for (id, node) in graph.nodes.into_iter().enumerate().filter(|(id, _)| live[*id]) {
        emit(node, &places[id], &places, &mut steps)?;
    }
    if !steps.iter().all(Step::writes_apart) {
        return Err("an operator would write where it reads".into());
    }
    Program::new(steps, places[output].clone())
}

/// Which nodes the output depends on.
fn live(graph: &Graph, output: Id) -> Vec<bool> {
    let mut live = vec![false; graph.nodes.len()];
    live[output] = true;
    for (id, node) in graph.nodes.iter().enumerate().rev() {
        if live[id] {
            node.reads().for_each(|input| live[input] = true);
        }
    }
    live
}

/// Where each activation lies.
fn places(graph: &Graph, output: Id) -> Result<Vec<Place>, String> {
    let live = live(graph, output);
    let homes = homes(graph, &live);
    let mut lifetimes: Vec<Lifetime> = vec![Lifetime { len: 0, first: usize::MAX, last: 0 }; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate().filter(|(id, _)| live[*id]) {
        for touched in node.reads().chain([id]) {
            let owner = owner(&homes, touched);
            let shape = graph.shape(owner);
            let len = shape.len().checked_add(shape.channels).ok_or("the activations overflow")?;
            let Lifetime { first, last, .. } = lifetimes[owner];
            lifetimes[owner] = Lifetime { len, first: first.min(id), last: last.max(id) };
        }
    }
    lifetimes[owner(&homes, output)].last = graph.nodes.len();
    let (starts, _) = arena::plan(&lifetimes).ok_or("the activations overflow")?;
    let place = |id| {
        let owner = owner(&homes, id);
        let buffer: Range<usize> = starts[owner]..starts[owner] + lifetimes[owner].len;
        Place { buffer, view: view(graph, &homes, id), zeros: graph.shape(owner).channels }
    };
    Ok((0..graph.nodes.len()).map(place).collect())
}

/// Lets what is concatenated be written where it belongs from the start, where nothing stands against it.
fn homes(graph: &Graph, live: &[bool]) -> Vec<Home> {
    let home = |node: &Node| match node.kind {
        Kind::Crop { top, left } => Home::Window(node.inputs[0], top, left),
        _ => Home::Own,
    };
    let mut homes: Vec<Home> = graph.nodes.iter().map(home).collect();
    for (id, node) in graph.nodes.iter().enumerate().filter(|(id, node)| live[*id] && matches!(node.kind, Kind::Concat))
    {
        let mut channel = 0;
        for &input in &node.inputs {
            let is_free = homes[input] == Home::Own && !matches!(graph.nodes[input].kind, Kind::Concat);
            if is_free && !meets(graph, &homes, live, input, id) {
                homes[input] = Home::Within(id, channel);
            }
            channel += graph.shape(input).channels;
        }
    }
    homes
}

/// Whether `input` is computed from what lies in the buffer of the concatenation `id`, or the other way round.
fn meets(graph: &Graph, homes: &[Home], live: &[bool], input: Id, id: Id) -> bool {
    let lies_there = |other: Id| owner(homes, other) == id;
    let reads = |node: &Node| node.reads().any(|read| owner(homes, read) == input);
    let users = graph.nodes.iter().enumerate().filter(|(user, node)| live[*user] && reads(node));
    graph.nodes[input].reads().any(lies_there) || users.into_iter().any(|(user, _)| user != id && lies_there(user))
}

/// The node whose buffer `id` lies in.
fn owner(homes: &[Home], id: Id) -> Id {
    match homes[id] {
        Home::Own => id,
        Home::Within(concat, _) => concat,
        Home::Window(x, ..) => owner(homes, x),
    }
}

fn view(graph: &Graph, homes: &[Home], id: Id) -> View {
    let shape = graph.shape(id);
    match homes[id] {
        Home::Own => View::whole(shape),
        Home::Within(concat, channel) => View::whole(graph.shape(concat)).channels(channel, shape.channels),
        Home::Window(x, top, left) => view(graph, homes, x).window(top, left, shape.height, shape.width),
    }
}

/// Adds the steps that compute `node` at `out`.
fn emit(node: Node, out: &Place, places: &[Place], steps: &mut Vec<Step>) -> Result<(), String> {
    let shape = node.shape;
    let input = |i: usize| places[node.inputs[i]].clone();
    let op = match node.kind {
        Kind::Input(i) => Op::Input(i),
        Kind::Conv(conv) => {
            let x = input(0);
            let size = conv.geometry.size;
            let kernel = Kernel { outputs: shape.channels, inputs: x.view.shape.channels, size };
            let mut weights =
                conv.kernels.pack(kernel, &conv.bias).ok_or("weights of other sides than the convolution")?;
            if !conv.rounding.is_none_or(|rounding| weights.round(rounding)) {
                return Err("a rounded input of weights that are not rounded, or of too many".into());
            }
            let place = |id: Option<Id>| id.map(|id| places[id].clone());
            let (vector, residual) = (place(conv.vector), place(conv.residual));
            let conv = Arc::new(Conv { weights, geometry: conv.geometry, silu: conv.silu });
            Op::Conv { conv, x, vector, residual, corner: Corner::default() }
        }
        Kind::GroupNorm { groups, epsilon, scale, shift, silu } => Op::GroupNorm {
            norm: GroupNorm { groups, epsilon, scale: scale.into(), shift: shift.into(), silu },
            x: input(0),
        },
        Kind::LayerNorm { epsilon, scale, shift } => {
            let value = |values: &[f32], i: usize| values[i % shape.channels * shape.pixels() + i / shape.channels];
            let channels_last =
                |values: Box<[f32]>| (0..shape.len()).map(|i| value(&values, i)).collect::<Vec<_>>().into();
            let norm = LayerNorm { epsilon, scale: channels_last(scale), shift: channels_last(shift) };
            Op::LayerNorm { norm, x: input(0) }
        }
        Kind::Attention { heads, scale } => Op::Attention { attention: Attention { heads, scale }, qkv: input(0) },
        Kind::Silu => Op::Silu { x: input(0) },
        Kind::Add => Op::Add { a: input(0), b: input(1) },
        Kind::AddVector => Op::AddVector { x: input(0), vector: input(1) },
        Kind::DepthToSpace { block } => Op::DepthToSpace { block, x: input(0) },
        Kind::Sinusoid { rates } => Op::Sinusoid { rates: rates.into(), t: input(0) },
        Kind::Concat => {
            let mut channel = 0;
            for (i, &id) in node.inputs.iter().enumerate() {
                let channels = places[id].view.shape.channels;
                let view = out.view.channels(channel, channels);
                if (&places[id].buffer, places[id].view) != (&out.buffer, view) {
                    steps.push(Step { op: Op::Copy { x: input(i) }, out: Place { view, ..out.clone() } });
                }
                channel += channels;
            }
            return Ok(());
        }
        Kind::Crop { .. } | Kind::Gone => return Ok(()),
    };
    steps.push(Step { op, out: out.clone() });
    Ok(())
}
