# Ends once the engine's present start is noted as warm. Where no playbook has waited since, its own unit has done that.
until grep -q "\"$(systemctl show --timestamp=unix -P ExecMainStartTimestamp inferhost-serve@main)\"" /run/inferhost/warm.json
do sleep 1; done
