"""Initial schema"""

from alembic import op
import sqlalchemy as sa


revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('entities',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('is_team', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_entities')),
    sa.UniqueConstraint('id', name=op.f('uq_entities_id'))
    )
    op.create_table('installation',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('control_plane_id', sa.Text(), nullable=False),
    sa.Column('signing_key_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_installation'))
    )
    op.create_table('agents',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('hostname', sa.Text(), nullable=False),
    sa.Column('version', sa.Text(), nullable=True),
    sa.Column('protocol', sa.Text(), nullable=False),
    sa.Column('identity', sa.Text(), nullable=True),
    sa.Column('session', sa.Text(), nullable=True),
    sa.Column('backend_id', sa.Text(), nullable=True),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('resources', sa.Text(), nullable=False),
    sa.Column('capacity', sa.Text(), nullable=True),
    sa.Column('config', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('stop', sa.Text(), nullable=True),
    sa.Column('heartbeat_at', sa.Double(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('conditions', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_agents_entity')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_agents'))
    )
    op.create_index(op.f('ix_agents_backend_id'), 'agents', ['backend_id'], unique=False)
    op.create_index(op.f('ix_agents_entity_identity'), 'agents', ['entity', 'identity'], unique=False)
    op.create_index(op.f('ix_agents_entity_name'), 'agents', ['entity', 'name'], unique=False)
    op.create_table('artifact_collections',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('next_version', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('updated_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_artifact_collections_entity')),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_artifact_collections')),
    sa.UniqueConstraint('entity', 'project', 'name', name=op.f('uq_artifact_collections_entity_project_name')),
    sa.UniqueConstraint('id', name=op.f('uq_artifact_collections_id'))
    )
    op.create_table('contents',
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('md5', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('touched_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_contents_entity')),
    sa.PrimaryKeyConstraint('entity', 'md5', name=op.f('pk_contents')),
    sa.UniqueConstraint('key', name=op.f('uq_contents_key'))
    )
    op.create_index(op.f('ix_contents_entity_touched_at'), 'contents', ['entity', 'touched_at'], unique=False)
    op.create_table('idempotency_keys',
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('fingerprint', sa.LargeBinary(), nullable=False),
    sa.Column('reply', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_idempotency_keys_entity')),
    sa.PrimaryKeyConstraint('entity', 'key', name=op.f('pk_idempotency_keys'))
    )
    op.create_index(op.f('ix_idempotency_keys_created_at'), 'idempotency_keys', ['created_at'], unique=False)
    op.create_table('projects',
    sa.Column('number', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('makes_jobs', sa.Boolean(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_projects_entity')),
    sa.PrimaryKeyConstraint('number', name=op.f('pk_projects')),
    sa.UniqueConstraint('entity', 'name', name=op.f('uq_projects_entity_name'))
    )
    op.create_table('queues',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('access', sa.Text(), nullable=False),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('resource', sa.Text(), nullable=True),
    sa.Column('config', sa.Text(), nullable=False),
    sa.Column('template_variables', sa.Text(), nullable=False),
    sa.Column('prioritization', sa.Text(), nullable=False),
    sa.Column('external_links', sa.Text(), nullable=True),
    sa.Column('resource_config_id', sa.Text(), nullable=True),
    sa.Column('paused', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_queues_entity')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_queues')),
    sa.UniqueConstraint('entity', 'name', name=op.f('uq_queues_entity_name'))
    )
    op.create_table('resource_configs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('resource', sa.Text(), nullable=False),
    sa.Column('config', sa.Text(), nullable=False),
    sa.Column('template_variables', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_resource_configs_entity')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_resource_configs'))
    )
    op.create_table('runs',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('display_name', sa.Text(), nullable=True),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('notes', sa.Text(), nullable=True),
    sa.Column('tags', sa.Text(), nullable=False),
    sa.Column('group_name', sa.Text(), nullable=True),
    sa.Column('job_type', sa.Text(), nullable=True),
    sa.Column('commit_hash', sa.Text(), nullable=True),
    sa.Column('config', sa.Text(), nullable=False),
    sa.Column('summary', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('stopped', sa.Boolean(), nullable=False),
    sa.Column('exit_code', sa.Integer(), nullable=True),
    sa.Column('host', sa.Text(), nullable=True),
    sa.Column('program', sa.Text(), nullable=True),
    sa.Column('git_remote', sa.Text(), nullable=True),
    sa.Column('sweep', sa.Text(), nullable=True),
    sa.Column('user_name', sa.Text(), nullable=True),
    sa.Column('item_id', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('heartbeat_at', sa.Double(), nullable=False),
    sa.Column('ended_at', sa.Double(), nullable=True),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_runs_entity')),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_runs')),
    sa.UniqueConstraint('entity', 'project', 'name', name=op.f('uq_runs_entity_project_name')),
    sa.UniqueConstraint('id', name=op.f('uq_runs_id'))
    )
    op.create_table('run_values',
    sa.Column('run_seq', sa.BigInteger(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('project_number', sa.BigInteger(), nullable=False),
    sa.Column('number', sa.Double(), nullable=True),
    sa.Column('text', sa.Text(), nullable=True),
    sa.Column('truth', sa.Boolean(), nullable=True),
    sa.ForeignKeyConstraint(['run_seq'], ['runs.seq'], name=op.f('fk_run_values_run_seq'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_seq', 'key', name=op.f('pk_run_values'))
    )
    op.create_index('ix_run_values_number', 'run_values', ['project_number', 'key', 'number', 'run_seq'], unique=False, sqlite_where=sa.text('number IS NOT NULL'), postgresql_where=sa.text('number IS NOT NULL'))
    op.create_index('ix_run_values_text', 'run_values', ['project_number', 'key', 'text', 'run_seq'], unique=False, sqlite_where=sa.text('text IS NOT NULL'), postgresql_where=sa.text('text IS NOT NULL'))
    op.create_index('ix_run_values_truth', 'run_values', ['project_number', 'key', 'truth', 'run_seq'], unique=False, sqlite_where=sa.text('truth IS NOT NULL'), postgresql_where=sa.text('truth IS NOT NULL'))
    op.create_table('run_files',
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('updated_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_run_files_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'name', name=op.f('pk_run_files'))
    )
    op.create_table('work_leases',
    sa.Column('work', sa.Text(), nullable=False),
    sa.Column('holder', sa.Text(), nullable=False),
    sa.Column('expires_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('work', name=op.f('pk_work_leases'))
    )
    op.create_table('stored_bytes',
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('bytes', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_stored_bytes_entity')),
    sa.PrimaryKeyConstraint('entity', 'kind', name=op.f('pk_stored_bytes'))
    )
    op.create_index('ix_runs_alive', 'runs', ['heartbeat_at'], unique=False, sqlite_where=sa.text("state IN ('preempting', 'running')"), postgresql_where=sa.text("state IN ('preempting', 'running')"))
    op.create_index('ix_runs_project_heartbeat', 'runs', ['entity', 'project', 'heartbeat_at'], unique=False)
    op.create_index('ix_runs_project_display_name', 'runs', ['entity', 'project', 'display_name', 'seq'], unique=False)
    op.create_index('ix_runs_project_state', 'runs', ['entity', 'project', 'state', 'seq'], unique=False)
    op.create_index('ix_runs_project_seq', 'runs', ['entity', 'project', 'seq'], unique=False)
    op.create_index('ix_runs_sweep', 'runs', ['entity', 'project', 'sweep'], unique=False, sqlite_where=sa.text('sweep IS NOT NULL'), postgresql_where=sa.text('sweep IS NOT NULL'))
    op.create_table('run_streams',
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('stream', sa.Text(), nullable=False),
    sa.Column('line_count', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('last_step', sa.BigInteger(), nullable=True),
    sa.Column('keys', sa.Text(), nullable=False),
    sa.Column('tail', sa.LargeBinary(), nullable=False),
    sa.Column('small_chunks', sa.Integer(), nullable=False),
    sa.Column('small_bytes', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_run_streams_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'stream', name=op.f('pk_run_streams'))
    )
    op.create_table('run_chunks',
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('stream', sa.Text(), nullable=False),
    sa.Column('first_line', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('end_line', sa.BigInteger(), nullable=False),
    sa.Column('min_step', sa.BigInteger(), nullable=False),
    sa.Column('max_step', sa.BigInteger(), nullable=False),
    sa.Column('rising', sa.Boolean(), nullable=False),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('data', sa.LargeBinary(), nullable=True),
    sa.Column('object', sa.Text(), nullable=True),
    sa.Column('position', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_run_chunks_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'stream', 'first_line', 'version', name=op.f('pk_run_chunks'))
    )
    op.create_index('ix_run_chunks_steps', 'run_chunks', ['run_id', 'stream', 'max_step', 'min_step'], unique=False)
    op.create_table('run_alerts',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('title', sa.Text(), nullable=False),
    sa.Column('text', sa.Text(), nullable=False),
    sa.Column('severity', sa.Text(), nullable=False),
    sa.Column('sent_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_run_alerts_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_run_alerts'))
    )
    op.create_index('ix_run_alerts_run_id_title', 'run_alerts', ['run_id', 'title'], unique=False)
    op.create_table('sweeps',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('display_name', sa.Text(), nullable=True),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('config_text', sa.Text(), nullable=False),
    sa.Column('config', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('combinations', sa.Integer(), nullable=False),
    sa.Column('given', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('updated_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_sweeps_entity')),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_sweeps')),
    sa.UniqueConstraint('entity', 'project', 'name', name=op.f('uq_sweeps_entity_project_name')),
    sa.UniqueConstraint('id', name=op.f('uq_sweeps_id'))
    )
    op.create_table('sweep_agents',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('sweep_id', sa.Text(), nullable=False),
    sa.Column('host', sa.Text(), nullable=False),
    sa.Column('run_name', sa.Text(), nullable=True),
    sa.Column('offers', sa.Integer(), nullable=False),
    sa.Column('heartbeat_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['sweep_id'], ['sweeps.id'], name=op.f('fk_sweep_agents_sweep_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_sweep_agents'))
    )
    op.create_index(op.f('ix_sweep_agents_sweep_id'), 'sweep_agents', ['sweep_id'], unique=False)
    op.create_table('users',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('email', sa.Text(), nullable=True),
    sa.Column('admin', sa.Boolean(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('disabled_at', sa.Double(), nullable=True),
    sa.Column('makes_jobs', sa.Boolean(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_users_entity')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_users')),
    sa.UniqueConstraint('name', name=op.f('uq_users_name'))
    )
    op.create_table('agent_queues',
    sa.Column('agent_id', sa.Text(), nullable=False),
    sa.Column('queue_id', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['agent_id'], ['agents.id'], name=op.f('fk_agent_queues_agent_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['queue_id'], ['queues.id'], name=op.f('fk_agent_queues_queue_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('agent_id', 'queue_id', name=op.f('pk_agent_queues'))
    )
    op.create_index(op.f('ix_agent_queues_queue_id'), 'agent_queues', ['queue_id'], unique=False)
    op.create_table('api_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('hash', sa.LargeBinary(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('hint', sa.Text(), nullable=False),
    sa.Column('user_id', sa.Text(), nullable=True),
    sa.Column('entity', sa.Text(), nullable=True),
    sa.Column('queues', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('revoked_at', sa.Double(), nullable=True),
    sa.Column('expires_at', sa.Double(), nullable=True),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_api_keys_entity')),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_api_keys_user_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys')),
    sa.UniqueConstraint('hash', name=op.f('uq_api_keys_hash'))
    )
    op.create_index(op.f('ix_api_keys_entity'), 'api_keys', ['entity'], unique=False)
    op.create_index(op.f('ix_api_keys_user_id'), 'api_keys', ['user_id'], unique=False)
    op.create_table('sign_ins',
    sa.Column('hash', sa.LargeBinary(), nullable=False),
    sa.Column('purpose', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('expires_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['key_id'], ['api_keys.id'], name=op.f('fk_sign_ins_key_id')),
    sa.PrimaryKeyConstraint('hash', name=op.f('pk_sign_ins'))
    )
    op.create_index(op.f('ix_sign_ins_expires_at'), 'sign_ins', ['expires_at'], unique=False)
    op.create_table('audit_log',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.Column('actor', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=True),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=True),
    sa.Column('details', sa.Text(), nullable=False),
    sa.Column('address', sa.Text(), nullable=False),
    sa.Column('result', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_audit_log'))
    )
    op.create_index(op.f('ix_audit_log_entity_seq'), 'audit_log', ['entity', 'seq'], unique=False)
    op.create_table('artifacts',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('collection_id', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=True),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('digest_algorithm', sa.Text(), nullable=False),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('metadata', sa.Text(), nullable=False),
    sa.Column('tags', sa.Text(), nullable=False),
    sa.Column('wanted_aliases', sa.Text(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('file_count', sa.Integer(), nullable=False),
    sa.Column('ttl_seconds', sa.BigInteger(), nullable=False),
    sa.Column('history_step', sa.BigInteger(), nullable=True),
    sa.Column('user_name', sa.Text(), nullable=True),
    sa.Column('run_name', sa.Text(), nullable=True),
    sa.Column('job_file', sa.Text(), nullable=True),
    sa.Column('job_problem', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('updated_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['collection_id'], ['artifact_collections.id'], name=op.f('fk_artifacts_collection_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_artifacts')),
    sa.UniqueConstraint('collection_id', 'version', name=op.f('uq_artifacts_collection_id_version')),
    sa.UniqueConstraint('id', name=op.f('uq_artifacts_id'))
    )
    op.create_index(op.f('ix_artifacts_collection_id_digest'), 'artifacts', ['collection_id', 'digest'], unique=False)
    op.create_index(op.f('ix_artifacts_state_updated_at'), 'artifacts', ['state', 'updated_at'], unique=False)
    op.create_table('items',
    sa.Column('seq', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('run_entity', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('queue_id', sa.Text(), nullable=True),
    sa.Column('queue', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=True),
    sa.Column('display_name', sa.Text(), nullable=False),
    sa.Column('job', sa.Text(), nullable=True),
    sa.Column('run_name', sa.Text(), nullable=True),
    sa.Column('author', sa.Text(), nullable=True),
    sa.Column('author_id', sa.Text(), nullable=True),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('resource', sa.Text(), nullable=True),
    sa.Column('demand_cpus', sa.Double(), nullable=False),
    sa.Column('demand_memory', sa.BigInteger(), nullable=False),
    sa.Column('demand_gpus', sa.Integer(), nullable=False),
    sa.Column('retries', sa.Integer(), nullable=False),
    sa.Column('retried', sa.Integer(), nullable=False),
    sa.Column('on_lost', sa.Text(), nullable=False),
    sa.Column('run_spec', sa.Text(), nullable=False),
    sa.Column('layers', sa.Text(), nullable=False),
    sa.Column('template_values', sa.Text(), nullable=False),
    sa.Column('secrets', sa.LargeBinary(), nullable=True),
    sa.Column('phase', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('agent_id', sa.Text(), nullable=True),
    sa.Column('agent_name', sa.Text(), nullable=True),
    sa.Column('protocol', sa.Text(), nullable=True),
    sa.Column('request_id', sa.Text(), nullable=True),
    sa.Column('lease_expires_at', sa.Double(), nullable=True),
    sa.Column('allocation', sa.Text(), nullable=True),
    sa.Column('lease_losses', sa.Integer(), nullable=False),
    sa.Column('stop_requested', sa.Boolean(), nullable=False),
    sa.Column('lost_contact_at', sa.Double(), nullable=True),
    sa.Column('activity', sa.Text(), nullable=True),
    sa.Column('facts', sa.Text(), nullable=False),
    sa.Column('warnings', sa.Text(), nullable=False),
    sa.Column('cause', sa.Text(), nullable=True),
    sa.Column('message', sa.Text(), nullable=True),
    sa.Column('exit_code', sa.Integer(), nullable=True),
    sa.Column('enqueued_at', sa.Double(), nullable=False),
    sa.Column('not_before', sa.Double(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('updated_at', sa.Double(), nullable=False),
    sa.Column('started_at', sa.Double(), nullable=True),
    sa.Column('finished_at', sa.Double(), nullable=True),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_items_entity')),
    sa.ForeignKeyConstraint(['queue_id'], ['queues.id'], name=op.f('fk_items_queue_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('seq', name=op.f('pk_items')),
    sa.UniqueConstraint('id', name=op.f('uq_items_id'))
    )
    op.create_index('ix_items_claim', 'items', ['queue_id', 'priority', 'enqueued_at', 'seq'], unique=False, sqlite_where=sa.text("phase = 'QUEUED'"), postgresql_where=sa.text("phase = 'QUEUED'"))
    op.create_index('ix_items_deferred', 'items', ['not_before'], unique=False, sqlite_where=sa.text('not_before IS NOT NULL'), postgresql_where=sa.text('not_before IS NOT NULL'))
    op.create_index('ix_items_expiry', 'items', ['lease_expires_at'], unique=False, sqlite_where=sa.text("phase IN ('LEASED', 'PERMITTED', 'PREPARING', 'STARTED')"), postgresql_where=sa.text("phase IN ('LEASED', 'PERMITTED', 'PREPARING', 'STARTED')"))
    op.create_index('ix_items_finished_at', 'items', ['finished_at'], unique=False)
    op.create_index('ix_items_held_by', 'items', ['agent_id'], unique=False, sqlite_where=sa.text("phase IN ('LEASED', 'PERMITTED', 'PREPARING', 'STARTED')"), postgresql_where=sa.text("phase IN ('LEASED', 'PERMITTED', 'PREPARING', 'STARTED')"))
    op.create_index('ix_items_job', 'items', ['job', 'seq', 'entity'], unique=False)
    op.create_index('ix_items_list', 'items', ['entity', 'seq', 'phase', 'queue_id', 'job', 'author', 'display_name', 'id'], unique=False)
    op.create_index('ix_items_queue_phase', 'items', ['queue_id', 'phase', 'seq'], unique=False)
    op.create_index('ix_items_run', 'items', ['run_entity', 'project', 'run_name'], unique=False)
    op.create_table('members',
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('user_id', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('accepted', sa.Boolean(), nullable=False),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_members_entity')),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_members_user_id')),
    sa.PrimaryKeyConstraint('entity', 'user_id', name=op.f('pk_members'))
    )
    op.create_index(op.f('ix_members_user_id'), 'members', ['user_id'], unique=False)
    op.create_table('artifact_aliases',
    sa.Column('collection_id', sa.Text(), nullable=False),
    sa.Column('alias', sa.Text(), nullable=False),
    sa.Column('artifact_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['artifact_id'], ['artifacts.id'], name=op.f('fk_artifact_aliases_artifact_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['collection_id'], ['artifact_collections.id'], name=op.f('fk_artifact_aliases_collection_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('collection_id', 'alias', name=op.f('pk_artifact_aliases'))
    )
    op.create_index(op.f('ix_artifact_aliases_artifact_id'), 'artifact_aliases', ['artifact_id'], unique=False)
    op.create_table('artifact_clients',
    sa.Column('collection_id', sa.Text(), nullable=False),
    sa.Column('client_id', sa.Text(), nullable=False),
    sa.Column('artifact_id', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['artifact_id'], ['artifacts.id'], name=op.f('fk_artifact_clients_artifact_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['collection_id'], ['artifact_collections.id'], name=op.f('fk_artifact_clients_collection_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('collection_id', 'client_id', name=op.f('pk_artifact_clients'))
    )
    op.create_index(op.f('ix_artifact_clients_artifact_id'), 'artifact_clients', ['artifact_id'], unique=False)
    op.create_index(op.f('ix_artifact_clients_client_id'), 'artifact_clients', ['client_id'], unique=False)
    op.create_table('artifact_entries',
    sa.Column('artifact_id', sa.Text(), nullable=False),
    sa.Column('path', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('md5', sa.Text(), nullable=True),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('ref', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['artifact_id'], ['artifacts.id'], name=op.f('fk_artifact_entries_artifact_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('artifact_id', 'path', name=op.f('pk_artifact_entries'))
    )
    op.create_index(op.f('ix_artifact_entries_md5'), 'artifact_entries', ['md5'], unique=False)
    op.create_table('artifact_manifests',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('artifact_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['artifact_id'], ['artifacts.id'], name=op.f('fk_artifact_manifests_artifact_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_artifact_manifests')),
    sa.UniqueConstraint('artifact_id', 'name', name=op.f('uq_artifact_manifests_artifact_id_name'))
    )
    op.create_table('artifact_uses',
    sa.Column('entity', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('run_name', sa.Text(), nullable=False),
    sa.Column('artifact_id', sa.Text(), nullable=False),
    sa.Column('used_as', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['artifact_id'], ['artifacts.id'], name=op.f('fk_artifact_uses_artifact_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['entity'], ['entities.name'], name=op.f('fk_artifact_uses_entity')),
    sa.PrimaryKeyConstraint('entity', 'project', 'run_name', 'artifact_id', name=op.f('pk_artifact_uses'))
    )
    op.create_index(op.f('ix_artifact_uses_artifact_id'), 'artifact_uses', ['artifact_id'], unique=False)
    op.create_table('attempts',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('item_id', sa.Text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('phase', sa.Text(), nullable=False),
    sa.Column('agent_id', sa.Text(), nullable=True),
    sa.Column('agent_name', sa.Text(), nullable=True),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('token_epoch', sa.Integer(), nullable=False),
    sa.Column('cause', sa.Text(), nullable=True),
    sa.Column('message', sa.Text(), nullable=True),
    sa.Column('exit_code', sa.Integer(), nullable=True),
    sa.Column('started_at', sa.Double(), nullable=True),
    sa.Column('finished_at', sa.Double(), nullable=True),
    sa.Column('setup_log_bytes', sa.BigInteger(), nullable=False),
    sa.Column('job_log_bytes', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['item_id'], ['items.id'], name=op.f('fk_attempts_item_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_attempts')),
    sa.UniqueConstraint('item_id', 'number', name=op.f('uq_attempts_item_id_number')),
    sqlite_autoincrement=True,
    )
    op.create_table('log_chunks',
    sa.Column('attempt_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=False, nullable=False),
    sa.Column('channel', sa.Text(), nullable=False),
    sa.Column('first', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('stop', sa.BigInteger(), nullable=False),
    sa.Column('data', sa.LargeBinary(), nullable=True),
    sa.Column('object', sa.Text(), nullable=True),
    sa.Column('position', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['attempt_id'], ['attempts.id'], name=op.f('fk_log_chunks_attempt_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('attempt_id', 'channel', 'first', name=op.f('pk_log_chunks'))
    )
    op.create_table('events',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('item_id', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('at', sa.Double(), nullable=False),
    sa.Column('phase', sa.Text(), nullable=False),
    sa.Column('actor', sa.Text(), nullable=True),
    sa.Column('text', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['item_id'], ['items.id'], name=op.f('fk_events_item_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_events'))
    )
    op.create_index(op.f('ix_events_item_id_id'), 'events', ['item_id', 'id'], unique=False)
    op.create_table('run_jobs',
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('ends', sa.Integer(), nullable=False),
    sa.Column('due', sa.Boolean(), nullable=False),
    sa.Column('artifact_id', sa.Text(), nullable=True),
    sa.Column('problem', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_run_jobs_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', name=op.f('pk_run_jobs'))
    )
    op.create_index('ix_run_jobs_due', 'run_jobs', ['due'], unique=False, sqlite_where=sa.text('due'), postgresql_where=sa.text('due'))
