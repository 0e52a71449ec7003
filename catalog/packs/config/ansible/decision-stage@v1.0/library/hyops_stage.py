#!/usr/bin/python3
"""Ansible module: one stage of the control loop on this host, by `hyops.runner.stage_setup`, which is sent along."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hyops_stage_setup import perform

DOCUMENTATION = """
module: hyops_stage
short_description: one stage of the control loop as a systemd service
options:
  action: {description: what to do, choices: [look, make, look-remove, remove], required: true}
  plan: {description: what is to stand here, type: dict, required: true}
  data: {description: "file name -> base64; secrets too", type: dict, required: true}
"""


def main():
    """One plan in, one answer out; in check mode it only looks."""
    module = AnsibleModule(
        argument_spec={
            "action": {"choices": ["look", "make", "look-remove", "remove"], "required": True},
            "plan": {"type": "dict", "required": True},
            "data": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    action = module.params["action"]
    if module.check_mode:
        action = {"make": "look", "remove": "look-remove"}.get(action, action)
    answer = perform(action, module.params["plan"], module.params["data"])
    if not answer["ok"]:
        module.fail_json(msg=answer["message"], hyops=answer)
    looked = action in ("look", "look-remove") and not module.check_mode
    module.exit_json(changed=bool(answer["wanting"]) and not looked, hyops=answer)


if __name__ == "__main__":
    main()
