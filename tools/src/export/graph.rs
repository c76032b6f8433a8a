//! A graph under construction: nodes in order, constants stored once, names kept unique.
//!
//! Where tract expands a node it names the parts `node.part`, so the names made here must not be another name
//! followed by a point.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

use super::proto;

/// The graph so far.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    names: HashSet<String>,
    used: HashMap<String, usize>,
    shared: HashMap<(String, Vec<u32>), String>,
}

impl Graph {
    /// A graph in which no value but an input or the output may take the names in `reserved`.
    pub fn new(reserved: impl IntoIterator<Item = String>) -> Self {
        Self { names: reserved.into_iter().collect(), ..Self::default() }
    }

    /// A name that no other value has: `stem`, or `stem` with a number.
    pub fn fresh(&mut self, stem: &str) -> String {
        let count = self.used.entry(stem.to_owned()).or_default();
        loop {
            *count += 1;
            let name = if *count == 1 { stem.to_owned() } else { format!("{stem}_{count}") };
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Declares an input under its reserved name.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> String {
        assert!(self.inputs.iter().all(|i| i.name != name), "two inputs are named {name}");
        self.inputs.push(proto::value_info(name, shape));
        name.to_owned()
    }

    /// Adds a node with one output and returns the output's name, which starts with `stem`.
    pub fn node(&mut self, op: &str, stem: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let [output] = self.node_with(op, stem, inputs, attributes);
        output
    }

    /// Adds a node with several outputs.
    pub fn node_with<const N: usize>(
        &mut self,
        op: &str,
        stem: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> [String; N] {
        let outputs: [String; N] = std::array::from_fn(|_| self.fresh(stem));
        let names = outputs.each_ref().map(String::as_str);
        self.nodes.push(proto::node(op, inputs, &names, attributes));
        outputs
    }

    /// An `f32` constant.
    pub fn floats(&mut self, stem: &str, shape: &[usize], values: &[f32]) -> String {
        let name = self.fresh(stem);
        self.constants.push(proto::floats(&name, shape, values));
        name
    }

    /// An `i8` constant.
    pub fn bytes(&mut self, stem: &str, shape: &[usize], values: &[i8]) -> String {
        let name = self.fresh(stem);
        self.constants.push(proto::bytes(&name, shape, values));
        name
    }

    /// A vector of integers. Equal vectors are one constant.
    pub fn integers(&mut self, values: &[i64]) -> String {
        let parts: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("integers_{}", parts.join("_"));
        if self.names.insert(name.clone()) {
            self.constants.push(proto::integers(&name, values));
        }
        name
    }

    /// A vector of reals that the graph itself needs. Equal vectors of one stem are one constant.
    pub fn shared_floats(&mut self, stem: &str, values: &[f32]) -> String {
        let key = (stem.to_owned(), values.iter().map(|v| v.to_bits()).collect());
        if let Some(known) = self.shared.get(&key) {
            return known.clone();
        }
        let name = self.floats(stem, &[values.len()], values);
        self.shared.insert(key, name.clone());
        name
    }

    /// The finished graph, in which the value `from` is the output `to` of `shape`.
    pub fn finish(mut self, name: &str, from: &str, to: &str, shape: &[usize]) -> GraphProto {
        if self.inputs.iter().any(|i| i.name == from) {
            self.nodes.push(proto::node("Identity", &[from], &[to], Vec::new()));
        } else {
            let names = self.nodes.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
            names.filter(|n| *n == from).for_each(|n| to.clone_into(n));
        }
        GraphProto {
            name: name.to_owned(),
            node: self.nodes,
            initializer: self.constants,
            input: self.inputs,
            output: vec![proto::value_info(to, shape)],
            ..GraphProto::default()
        }
    }
}
