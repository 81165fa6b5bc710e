//! What a program calls, by name.

use aya::maps::MapType;
use aya_obj::generated::bpf_func_id::{self, *};
use serde::Serialize;

use super::{
    blocks::{Block, numbered},
    bytecode::Bytecode,
};
use crate::instruction;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    HashLookup,
    HashWrite,
    /// No call in machine code.
    ArrayLookup,
    Helper,
    /// Of the program's own.
    Function,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Call {
    pub kind: CallKind,
    /// Such as `lookup ASSURED`, or `fib_lookup`.
    pub name: String,
}

/// Every call of the block.
pub(super) fn calls(code: &Bytecode, block: &Block) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut map = None;
    for (at, it) in numbered(code, block.instructions.clone()) {
        let called = instruction::call(at, it);
        calls.extend(called.map(|called| call(code, called, map)));
        let (_, writes) = instruction::reads_and_writes(it);
        if writes & MAP_ARGUMENT != 0 {
            map = instruction::map(it);
        }
    }
    calls
}

/// R1, the first argument.
const MAP_ARGUMENT: instruction::Registers = 1 << 1;

/// Those that the programs use; the names of linux/bpf.h.
const HELPERS: [(bpf_func_id, &str); 31] = [
    (BPF_FUNC_ktime_get_ns, "ktime_get_ns"),
    (BPF_FUNC_get_prandom_u32, "get_prandom_u32"),
    (BPF_FUNC_get_smp_processor_id, "get_smp_processor_id"),
    (BPF_FUNC_skb_store_bytes, "skb_store_bytes"),
    (BPF_FUNC_l3_csum_replace, "l3_csum_replace"),
    (BPF_FUNC_l4_csum_replace, "l4_csum_replace"),
    (BPF_FUNC_tail_call, "tail_call"),
    (BPF_FUNC_clone_redirect, "clone_redirect"),
    (BPF_FUNC_skb_vlan_pop, "skb_vlan_pop"),
    (BPF_FUNC_redirect, "redirect"),
    (BPF_FUNC_skb_load_bytes, "skb_load_bytes"),
    (BPF_FUNC_csum_diff, "csum_diff"),
    (BPF_FUNC_skb_change_type, "skb_change_type"),
    (BPF_FUNC_skb_change_tail, "skb_change_tail"),
    (BPF_FUNC_skb_pull_data, "skb_pull_data"),
    (BPF_FUNC_csum_update, "csum_update"),
    (BPF_FUNC_xdp_adjust_tail, "xdp_adjust_tail"),
    (BPF_FUNC_fib_lookup, "fib_lookup"),
    (BPF_FUNC_sk_lookup_tcp, "sk_lookup_tcp"),
    (BPF_FUNC_sk_lookup_udp, "sk_lookup_udp"),
    (BPF_FUNC_sk_release, "sk_release"),
    (BPF_FUNC_jiffies64, "jiffies64"),
    (BPF_FUNC_spin_lock, "spin_lock"),
    (BPF_FUNC_spin_unlock, "spin_unlock"),
    (BPF_FUNC_redirect_neigh, "redirect_neigh"),
    (BPF_FUNC_redirect_peer, "redirect_peer"),
    (BPF_FUNC_ktime_get_coarse_ns, "ktime_get_coarse_ns"),
    (BPF_FUNC_xdp_get_buff_len, "xdp_get_buff_len"),
    (BPF_FUNC_xdp_load_bytes, "xdp_load_bytes"),
    (BPF_FUNC_xdp_store_bytes, "xdp_store_bytes"),
    (BPF_FUNC_ringbuf_output, "ringbuf_output"),
];

fn call(code: &Bytecode, called: instruction::Call, map: Option<i32>) -> Call {
    let id = match called {
        instruction::Call::Helper(id) => id,
        instruction::Call::Function(_) => {
            return Call {
                kind: CallKind::Function,
                name: "own function".into(),
            };
        }
        instruction::Call::Kernel(id) => {
            return Call {
                kind: CallKind::Helper,
                name: format!("kernel function {id}"),
            };
        }
    };
    let map = map.and_then(|map| code.map(map));
    let is = |helper: bpf_func_id| id == helper as i32;
    let (operation, is_write) = match () {
        () if is(BPF_FUNC_map_lookup_elem) => ("lookup", false),
        () if is(BPF_FUNC_map_lookup_percpu_elem) => ("lookup", false),
        () if is(BPF_FUNC_map_update_elem) => ("update", true),
        () if is(BPF_FUNC_map_delete_elem) => ("delete", true),
        () => {
            let named = HELPERS.iter().find(|(helper, _)| is(*helper));
            return Call {
                kind: CallKind::Helper,
                name: named.map_or_else(|| format!("helper {id}"), |(_, name)| (*name).into()),
            };
        }
    };
    let is_array =
        map.is_some_and(|(_, kind)| matches!(kind, MapType::Array | MapType::PerCpuArray));
    Call {
        kind: match (is_write, is_array) {
            (false, true) => CallKind::ArrayLookup,
            (false, false) => CallKind::HashLookup,
            (true, true) => CallKind::Helper,
            (true, false) => CallKind::HashWrite,
        },
        name: format!("{operation} {}", map.map_or("a map", |(name, _)| name)),
    }
}
